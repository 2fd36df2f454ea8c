"""Serve a classification model of Sightline with LitServe and ONNX Runtime, to measure both servers with the same file.

    pip install litserve onnxruntime pillow numpy
    python scripts/compare/litserve_server.py my-models/mobilenet_v2 --port 8090 --workers 2
    sightline bench --url http://127.0.0.1:8090/v1/classify

The body of a request is an image file. Each worker is a process with one thread of ONNX Runtime, as each worker of
Sightline has one; decoding and preprocessing are Pillow's and numpy's.
"""

import argparse
import io
import pathlib
import tomllib
from typing import Annotated

import litserve
import numpy as np
import onnxruntime
from fastapi import Body
from PIL import Image


class Classifier(litserve.LitAPI):
    """Reads the preprocessing from the model's manifest, and returns the five most probable labels."""

    def __init__(self, folder, **options):
        super().__init__(**options)
        self.folder = pathlib.Path(folder)

    def setup(self, device):
        manifest = tomllib.loads((self.folder / "model.toml").read_text())
        preprocess = manifest["preprocess"]
        self.short_side, self.crop = preprocess["resize"]["size"], preprocess["crop"]
        self.mean, self.std = np.float32(preprocess["mean"]), np.float32(preprocess["std"])
        self.labels = (self.folder / manifest["labels"]).read_text().splitlines()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(self.folder / "model.onnx"), options,
                                                    providers=["CPUExecutionProvider"])
        self.input = self.session.get_inputs()[0].name

    def decode_request(self, request: Annotated[bytes, Body()]):
        image = Image.open(io.BytesIO(request)).convert("RGB")
        scale = self.short_side / min(image.size)
        image = image.resize([int(side * scale) for side in image.size], Image.Resampling.BILINEAR)
        left, top = ((side - self.crop) // 2 for side in image.size)
        pixels = np.asarray(image.crop((left, top, left + self.crop, top + self.crop)), np.float32) / 255
        return ((pixels - self.mean) / self.std).transpose(2, 0, 1)[np.newaxis]

    def predict(self, tensor):
        return self.session.run(None, {self.input: tensor})[0][0]

    def encode_response(self, logits):
        scores = np.exp(logits - logits.max())
        scores /= scores.sum()
        best = np.argsort(-scores)[:5]
        return {"predictions": [{"label": self.labels[i], "score": float(scores[i])} for i in best]}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    classifier = Classifier(arguments.model, api_path="/v1/classify")
    server = litserve.LitServer(classifier, accelerator="cpu", workers_per_device=arguments.workers)
    server.run(port=arguments.port, host="127.0.0.1", generate_client_file=False, log_level="warning")


if __name__ == "__main__":  # LitServe's processes import this file
    main()
