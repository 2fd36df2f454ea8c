"""Talks to a server with the unmodified gRPC clients of Triton, and checks the answers.

Usage: triton_grpc.py GRPC_ADDRESS HTTP_URL IMAGE MODEL [KEY]

With KEY, an API key, only the control of models is checked.

Exits with 77 if tritonclient is not installed.
"""

import asyncio
import json
import queue
import sys
import urllib.request

try:
    import numpy as np
    import tritonclient.grpc as grpc
    import tritonclient.grpc.aio as aio
    from tritonclient.utils import InferenceServerException
except ImportError as error:
    print(error, file=sys.stderr)
    sys.exit(77)

address, url, path, model, *keys = sys.argv[1:]
image = open(path, "rb").read()
faces = {"tensor": model, "image": f"{model}_image"}


def failure(call, code):
    """Checks that `call` fails with the status `code`, and returns its message."""
    try:
        call()
    except InferenceServerException as error:
        assert error.status() == f"StatusCode.{code}", (error.status(), error.message())
        return error.message()
    raise AssertionError(f"expected {code}")


def inputs(files, shape=None):
    """Returns the input of encoded images."""
    array = np.array(files, dtype=np.object_).reshape(shape or [len(files)])
    tensor = grpc.InferInput("image", list(array.shape), "BYTES")
    tensor.set_data_from_numpy(array)
    return [tensor]


def tensor(array):
    """Returns the input of normalized pixels."""
    tensor = grpc.InferInput("input", list(array.shape), "FP32")
    tensor.set_data_from_numpy(array)
    return [tensor]


def expected(query=""):
    """Returns the predictions of /v1/classify."""
    request = urllib.request.Request(f"{url}/v1/classify?top_k=5{query}", image, {"content-type": "image/jpeg"})
    return json.load(urllib.request.urlopen(request))["results"][0]["predictions"]


def check_image(result):
    """Checks the answer for one image against /v1."""
    labels, scores = result.as_numpy("labels"), result.as_numpy("scores")
    for index, prediction in enumerate(expected()):
        assert labels[0][index].decode() == prediction["label"], (labels, prediction)
        assert abs(scores[0][index] - prediction["score"]) < 1e-6


def describe(client):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready(model) and client.is_model_ready(model, "1")
    server = client.get_server_metadata()
    assert server.name == "sightline" and "statistics" in server.extensions
    for face, datatype in (("tensor", "FP32"), ("image", "BYTES")):
        metadata = client.get_model_metadata(faces[face])
        assert [tensor.datatype for tensor in metadata.inputs] == [datatype], metadata
        config = client.get_model_config(faces[face]).config
        assert config.max_batch_size > 0 and config.input[0].name == metadata.inputs[0].name
        assert list(config.output[0].dims) == list(metadata.outputs[0].shape)[1:]
    names = [entry.name for entry in client.get_model_repository_index().models]
    assert model in names and f"{model}_image" in names, names


def infer(client):
    result = client.infer(faces["image"], inputs([image]), request_id="seven")
    assert result.get_response().id == "seven"
    check_image(result)
    # One column is the form in which the metadata shows the input.
    check_image(client.infer(faces["image"], inputs([image], [1, 1])))
    two = client.infer(faces["image"], inputs([image, image]), parameters={"top_k": 2})
    assert two.as_numpy("labels").shape == (2, 2)
    for compression in ("gzip", "deflate"):
        check_image(client.infer(faces["image"], inputs([image]), compression_algorithm=compression))
    shape = list(client.get_model_metadata(model).inputs[0].shape)
    pixels = np.zeros([2] + [int(size) for size in shape[1:]], dtype=np.float32)
    result = client.infer(model, tensor(pixels))
    output = client.get_model_metadata(model).outputs[0].name
    assert result.as_numpy(output).shape[0] == 2
    top = [grpc.InferRequestedOutput(output, class_count=3)]
    classes = client.infer(model, tensor(pixels), outputs=top).as_numpy(output)
    assert classes.shape == (2, 3) and classes[0][0].count(b":") == 2, classes
    wanted = [grpc.InferRequestedOutput("embedding")]
    embedding = client.infer(faces["image"], inputs([image]), outputs=wanted).as_numpy("embedding")
    request = urllib.request.Request(f"{url}/v1/embed", image, {"content-type": "image/jpeg"})
    listed = json.load(urllib.request.urlopen(request))["results"][0]["embedding"]
    assert np.allclose(embedding[0], listed, atol=1e-5)
    client.infer(faces["image"], inputs([image]), priority=1, timeout=5_000_000)
    before = client.get_inference_statistics(model).model_stats[0]
    client.infer(faces["image"], inputs([image, image]))
    after = client.get_inference_statistics(model).model_stats[0]
    assert after.inference_count == before.inference_count + 2, (before, after)
    assert after.inference_stats.success.count == before.inference_stats.success.count + 1


def errors(client):
    assert "not served" in failure(lambda: client.get_model_metadata("nothing"), "NOT_FOUND")
    failure(lambda: client.get_model_metadata(model, "2"), "NOT_FOUND")
    failure(lambda: client.infer("nothing", inputs([image])), "NOT_FOUND")
    damaged = failure(lambda: client.infer(faces["image"], inputs([b"no image"])), "INVALID_ARGUMENT")
    assert "image 0" in damaged, damaged
    pixels = tensor(np.zeros([1, 3, 5, 7], dtype=np.float32))
    assert "shape" in failure(lambda: client.infer(model, pixels), "INVALID_ARGUMENT")
    unknown = [grpc.InferRequestedOutput("nothing")]
    failure(lambda: client.infer(faces["image"], inputs([image]), outputs=unknown), "INVALID_ARGUMENT")
    failure(lambda: client.infer(faces["image"], inputs([image]), client_timeout=1e-4), "DEADLINE_EXCEEDED")
    failure(lambda: client.infer(faces["image"], inputs([image]), timeout=1), "DEADLINE_EXCEEDED")
    failure(lambda: client.get_trace_settings(), "UNIMPLEMENTED")


def stream(client):
    answers = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)))
    for number in range(20):
        files = [b"no image"] if number == 7 else [image]
        client.async_stream_infer(faces["image"], inputs(files), request_id=str(number))
    for number in range(20):
        result, error = answers.get(timeout=60)
        if number == 7:
            assert "image 0" in error.message(), error
            continue
        assert error is None, error
        assert result.get_response().id == str(number)
        check_image(result)
    client.stop_stream()


def control(client, key):
    failure(lambda: client.load_model(model), "UNAUTHENTICATED")
    headers = {"authorization": f"Bearer {key}"}
    client.load_model(model, headers=headers)
    client.unload_model(f"{model}_image", headers=headers)
    assert not client.is_model_ready(model, headers=headers)
    failure(lambda: client.infer(model, inputs([image]), headers=headers), "UNAVAILABLE")
    client.load_model(model, headers=headers)
    assert client.is_model_ready(model, headers=headers)
    failure(lambda: client.load_model("nothing", headers=headers), "NOT_FOUND")


async def asynchronous():
    async with aio.InferenceServerClient(address) as client:
        assert await client.is_server_ready()
        results = await asyncio.gather(*(client.infer(faces["image"], inputs([image])) for _ in range(8)))
        for result in results:
            check_image(result)

        async def requests():
            for number in range(3):
                yield {"model_name": faces["image"], "inputs": inputs([image]), "request_id": str(number)}

        seen = []
        async for result, error in client.stream_infer(requests()):
            assert error is None, error
            seen.append(result.get_response().id)
        assert seen == ["0", "1", "2"], seen


with grpc.InferenceServerClient(address) as client:
    if keys:
        control(client, keys[0])
    else:
        describe(client)
        infer(client)
        errors(client)
        stream(client)
        asyncio.run(asynchronous())
        failure(lambda: client.load_model(model), "UNIMPLEMENTED")
print("all answers are right")
