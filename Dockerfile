# The CPU build: docker build -t onnx-analyzer . && docker run --rm -v "$PWD:/work" --user "$(id -u)" onnx-analyzer \
#     explain models/digits_cnn.onnx examples/digits_chelsea.png -o heatmap.png
FROM debian:bookworm-slim

RUN apt-get update \
 && apt-get install --yes --no-install-recommends python3 python3-venv ca-certificates \
 && rm -rf /var/lib/apt/lists/*

COPY . /source
RUN python3 -m venv /opt/onnx-analyzer \
 && python3 /source/.ci/requirements --cpu > /tmp/requirements.txt \
 && /opt/onnx-analyzer/bin/pip install --no-cache-dir -r /tmp/requirements.txt \
 && /opt/onnx-analyzer/bin/pip install --no-cache-dir --no-deps /source \
 && rm -r /source /tmp/requirements.txt

RUN useradd --create-home analyst
USER analyst
WORKDIR /work
ENV PATH=/opt/onnx-analyzer/bin:$PATH
ENTRYPOINT ["onnx-analyzer"]
CMD ["--help"]
