"""Calls a running server with the unmodified `tritonclient`, and compares its responses with those of /v1.

usage: client.py HOST:PORT ADMIN_HOST:PORT CLASSIFIER DETECTOR SEGMENTER PHOTO PHOTO
"""

import asyncio
import json
import sys
import urllib.request

import numpy as np
import tritonclient.http as http
import tritonclient.http.aio as aio
from tritonclient.utils import InferenceServerException

HOST, ADMIN, CLASSIFIER, DETECTOR, SEGMENTER, *PHOTOS = sys.argv[1:]
IMAGES = [open(path, "rb").read() for path in PHOTOS]


def v1(route, image, query=""):
    """Returns the result of /v1 for one image."""
    url = f"http://{HOST}/v1/{route}{query}"
    request = urllib.request.Request(url, image, {"content-type": "image/jpeg"})
    with urllib.request.urlopen(request) as response:
        return json.load(response)["results"][0]


def images(*files, shape=None, binary=True):
    """Returns the input `image`."""
    tensor = http.InferInput("image", shape or [len(files), 1], "BYTES")
    if binary:
        array = np.array(files, dtype=np.object_).reshape(tensor.shape())
        tensor.set_data_from_numpy(array)
    return tensor


def fails(call, *texts):
    """Checks that `call` fails with an error that has all `texts`."""
    try:
        call()
    except InferenceServerException as error:
        for text in texts:
            assert text in str(error), (text, str(error))
        return
    raise AssertionError(f"no error with {texts}")


def near(a, b, tolerance=1e-6):
    np.testing.assert_allclose(np.asarray(a, np.float64), np.asarray(b, np.float64), atol=tolerance)


def describe(client):
    assert client.is_server_live() and client.is_server_ready()
    assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
    for model in (CLASSIFIER, CLASSIFIER + "_image", DETECTOR, SEGMENTER + "_image"):
        assert client.is_model_ready(model) and client.is_model_ready(model, "1")
        metadata = client.get_model_metadata(model)
        config = client.get_model_config(model)
        assert len(metadata["inputs"]) == len(config["input"]) == 1
        names = {output["name"] for output in metadata["outputs"]}
        assert names == {output["name"] for output in config["output"]}
    assert not client.is_model_ready("nothing")
    fails(lambda: client.get_model_metadata("nothing"), "Request for unknown model")
    index = {entry["name"]: entry for entry in client.get_model_repository_index()}
    assert index[CLASSIFIER]["state"] == "READY" and index[CLASSIFIER]["version"] == "1"
    assert CLASSIFIER + "_image" in index


def classify(client):
    expected = [v1("classify", image, f"?model={CLASSIFIER}&top_k=3") for image in IMAGES]
    scores = [[p["score"] for p in result["predictions"]] for result in expected]
    labels = [[p["label"].encode() for p in result["predictions"]] for result in expected]
    model = CLASSIFIER + "_image"
    for shape in ([len(IMAGES)], [len(IMAGES), 1]):
        for compression in (None, "gzip", "deflate"):
            result = client.infer(
                model,
                [images(*IMAGES, shape=shape)],
                request_id="42",
                priority=2,
                timeout=20_000_000,
                parameters={"top_k": 3},
                request_compression_algorithm=compression,
                response_compression_algorithm=compression,
            )
            assert result.get_response()["id"] == "42"
            near(result.as_numpy("scores"), scores)
            assert result.as_numpy("labels").tolist() == labels
    outputs = [
        http.InferRequestedOutput("scores", binary_data=False),
        http.InferRequestedOutput("labels", binary_data=True),
        http.InferRequestedOutput("logits", class_count=2),
    ]
    result = client.infer(model, [images(IMAGES[0])], outputs=outputs, model_version="1")
    assert result.as_numpy("labels")[0, 0] == labels[0][0]
    near(result.as_numpy("scores")[0, :3], scores[0])
    value, index, label = result.as_numpy("logits")[0, 0].decode().split(":")
    assert label.encode() == labels[0][0] and int(index) >= 0
    # The elements as JSON, which is base64.
    shape = [2, 3, *client.get_model_metadata(CLASSIFIER)["inputs"][0]["shape"][2:]]
    values = np.random.default_rng(7).normal(size=shape).astype(np.float32)
    results = []
    for binary in (True, False):
        tensor = http.InferInput("input", shape, "FP32")
        tensor.set_data_from_numpy(values, binary_data=binary)
        results.append(client.infer(CLASSIFIER, [tensor]).as_numpy("logits"))
    np.testing.assert_array_equal(*results)
    one = http.InferInput("input", [1, *shape[1:]], "FP32")
    one.set_data_from_numpy(values[1:])
    np.testing.assert_array_equal(client.infer(CLASSIFIER, [one]).as_numpy("logits")[0], results[0][1])


def detect(client):
    query = f"?model={DETECTOR}&score_threshold=0.1"
    expected = [v1("detect", image, query)["detections"] for image in IMAGES]
    parameters = {"score_threshold": 0.1}
    result = client.infer(DETECTOR + "_image", [images(*IMAGES)], parameters=parameters)
    counts = result.as_numpy("counts").ravel().tolist()
    assert counts == [len(detections) for detections in expected]
    for image, detections in enumerate(expected):
        for at, detection in enumerate(detections):
            near(result.as_numpy("boxes")[image, at], [detection["box"][k] for k in ("x1", "y1", "x2", "y2")], 1e-3)
            near(result.as_numpy("scores")[image, at], detection["score"])
            assert result.as_numpy("labels")[image, at].decode() == detection["label"]
        assert (result.as_numpy("class_ids")[image, len(detections) :] == -1).all()


def segment(client):
    expected = [v1("segment", image, f"?model={SEGMENTER}&mask=none") for image in IMAGES]
    result = client.infer(SEGMENTER + "_image", [images(*IMAGES)])
    masks, sizes = result.as_numpy("mask"), result.as_numpy("mask_sizes")
    for image, segmented in enumerate(expected):
        height, width = sizes[image]
        assert (segmented["height"], segmented["width"]) == (height, width)
        mask = masks[image, :height, :width]
        ids, pixels = np.unique(mask, return_counts=True)
        shares = {c["class_id"]: c["pixels"] for c in segmented["classes"]}
        assert shares == dict(zip(ids.tolist(), pixels.tolist()))
        assert (masks[image, height:] == 255).all() and (masks[image, :, width:] == 255).all()


def statistics(client):
    before = client.get_inference_statistics(CLASSIFIER)["model_stats"][0]
    client.infer(CLASSIFIER + "_image", [images(*IMAGES)])
    after = client.get_inference_statistics(CLASSIFIER)["model_stats"][0]
    assert after["inference_count"] - before["inference_count"] == len(IMAGES)
    success = [stats["inference_stats"]["success"]["count"] for stats in (before, after)]
    assert success[1] - success[0] == 1
    assert len(client.get_inference_statistics()["model_stats"]) >= 6


def errors(client):
    model = CLASSIFIER + "_image"
    image = lambda: [images(IMAGES[0])]
    fails(lambda: client.infer("nothing", image()), "Request for unknown model")
    fails(lambda: client.infer(model, image(), model_version="7"), "its only version is 1")
    fails(lambda: client.infer(model, [images(b"no image")]), "image 0")
    fails(lambda: client.infer(model, image(), parameters={"topk": 1}), "did you mean `top_k`")
    fails(lambda: client.infer(model, image(), timeout=1), "deadline")
    unknown = [http.InferRequestedOutput("nothing")]
    fails(lambda: client.infer(model, image(), outputs=unknown), "outputs among")
    half = http.InferInput("input", [1, 3, 8, 8], "FP16")
    half.set_data_from_numpy(np.zeros([1, 3, 8, 8], np.float16))
    fails(lambda: client.infer(CLASSIFIER, [half]), "expected FP32, got FP16")
    fails(lambda: client.load_model(CLASSIFIER), "--admin-listen")


def control():
    with http.InferenceServerClient(ADMIN) as admin, http.InferenceServerClient(HOST) as client:
        admin.unload_model(DETECTOR)
        assert not client.is_model_ready(DETECTOR)
        fails(lambda: client.infer(DETECTOR + "_image", [images(IMAGES[0])]), "unloaded")
        admin.load_model(DETECTOR)
        assert client.is_model_ready(DETECTOR)
        fails(lambda: admin.load_model("nothing"), "failed to load")
        fails(lambda: admin.load_model(DETECTOR, config="{}"), "failed to load")


async def asynchronous():
    async with aio.InferenceServerClient(HOST) as client:
        assert await client.is_server_live() and await client.is_server_ready()
        assert await client.is_model_ready(CLASSIFIER)
        assert (await client.get_model_metadata(CLASSIFIER))["name"] == CLASSIFIER
        assert (await client.get_model_config(CLASSIFIER))["name"] == CLASSIFIER
        assert await client.get_model_repository_index()
        assert await client.get_inference_statistics(CLASSIFIER)
        requests = [client.infer(CLASSIFIER + "_image", [images(image)]) for image in IMAGES * 4]
        results = await asyncio.gather(*requests)
        for image, result in zip(IMAGES * 4, results):
            best = v1("classify", image, f"?model={CLASSIFIER}")["predictions"][0]
            assert result.as_numpy("labels")[0, 0].decode() == best["label"]
        compressed = await client.infer(
            CLASSIFIER + "_image", [images(IMAGES[0])], request_compression_algorithm="deflate"
        )
        assert compressed.as_numpy("scores").shape == (1, 5)
        try:
            await client.infer("nothing", [images(IMAGES[0])])
        except InferenceServerException as error:
            assert "Request for unknown model" in str(error)
        else:
            raise AssertionError("no error")


def main():
    with http.InferenceServerClient(HOST) as client:
        for check in (describe, classify, detect, segment, statistics, errors):
            check(client)
            print(check.__name__, "passed")
    asyncio.run(asynchronous())
    control()
    print("every check passed")


main()
