// Lists of buttons: one stop of the Tab key each, arrows move within. After a click arrows are those of the page.

let pointed = false;
addEventListener("pointerdown", () => { pointed = true; }, true);
addEventListener("keydown", (event) => { if (event.key === "Tab") pointed = false; }, true);

/** @param {HTMLElement} list @param {(button: HTMLButtonElement) => void} move  to a button */
export function roving(list, move = (button) => button.focus()) {
  const stops = () => {
    const buttons = [...list.querySelectorAll("button")];
    const on = buttons.find((one) => one === document.activeElement)
      || buttons.find((one) => one.matches("[aria-selected=true], [aria-pressed=true]")) || buttons[0];
    for (const one of buttons) one.tabIndex = one === on ? 0 : -1;
  };
  new MutationObserver(stops).observe(list, { childList: true, subtree: true, attributeFilter: ["aria-selected", "aria-pressed"] });
  list.addEventListener("focusin", stops);
  list.addEventListener("keydown", (event) => {
    const by = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[event.key];
    if (!by || pointed || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault(); event.stopPropagation();
    const buttons = [...list.querySelectorAll("button")], at = buttons.findIndex((one) => one === document.activeElement);
    if (buttons[at + by]) move(buttons[at + by]);
  });
}
