// Runs an ONNX file in onnxruntime-web (WebAssembly): `node child.mjs MODEL FOLDER RESULTS`. Both folders hold
// tensors.json, a list of {name, type, dims, file}, and the values of each tensor in `file`.
// onnxruntime-web is looked up from the working directory. Without arguments it prints the version.
import { createRequire } from "node:module";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { pathToFileURL } from "node:url";

const require = createRequire(join(process.cwd(), "child.mjs"));
const ort = await import(pathToFileURL(require.resolve("onnxruntime-web")).href).then((m) => m.default ?? m);
const ARRAYS = {
  float32: Float32Array, float64: Float64Array, float16: Uint16Array, int8: Int8Array, uint8: Uint8Array,
  int16: Int16Array, uint16: Uint16Array, int32: Int32Array, uint32: Uint32Array, int64: BigInt64Array,
  uint64: BigUint64Array, bool: Uint8Array,
};

const [model, given, results] = process.argv.slice(2);
if (model === undefined) {
  console.log(ort.env.versions.web);
  process.exit(0);
}
ort.env.logLevel = "error";
ort.env.wasm.numThreads = 1;
const session = await ort.InferenceSession.create(new Uint8Array(readFileSync(model)));
const feeds = {};
for (const { name, type, dims, file } of JSON.parse(readFileSync(join(given, "tensors.json"), "utf8"))) {
  const bytes = readFileSync(join(given, file));
  const buffer = bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
  feeds[name] = new ort.Tensor(type, new ARRAYS[type](buffer), dims);
}
const found = await session.run(feeds);
const listed = [];
Object.entries(found).forEach(([name, tensor], index) => {
  const { buffer, byteOffset, byteLength } = tensor.data;
  writeFileSync(join(results, String(index)), new Uint8Array(buffer, byteOffset, byteLength));
  listed.push({ name, type: tensor.type, dims: tensor.dims, file: String(index) });
});
writeFileSync(join(results, "tensors.json"), JSON.stringify(listed));
