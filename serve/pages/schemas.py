"""JSON Schemas (2020-12) of what the service takes and answers, as serve/inputs.py, serve/oip.py and serve/app.py read and write it."""

from __future__ import annotations

from typing import Any, get_args

from fmx.tasks import TASKS, Task
from serve.inputs import MOST_LABELS, Direction
from serve.oip import EMBEDDING, MOST_AXES, outputs_of
from serve.settings import ServeSettings

Schema = dict[str, Any]

TEXT: Schema = {"type": "string"}
COUNT: Schema = {"type": "integer", "minimum": 0}
SCORE: Schema = {"type": "number", "minimum": 0, "maximum": 1}
FILE: Schema = {"type": "string", "format": "binary"}
BASE64: Schema = {"type": "string", "format": "byte", "contentEncoding": "base64", "minLength": 1}
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAEElEQVR42mNsYIAAJgaKGAAmCACQtTEKkQAAAABJRU5ErkJggg=="
"""A grey square of 8 x 8 pixels, for examples."""
TOP_K: Schema = {"type": "integer", "minimum": 1, "maximum": MOST_LABELS}


def ref(name: str) -> Schema:
    """Refer to a schema by its name."""
    return {"$ref": f"#/components/schemas/{name}"}


def components(settings: ServeSettings, task: str) -> dict[str, Schema]:
    """Give every named schema, where a model of this task is served."""
    return {
        "Error": _object({"error": ref("ErrorDetail")}),
        "ErrorDetail": _object({"code": TEXT, "message": TEXT, "hint": TEXT, "request_id": TEXT}),
        "ProtocolError": _object({"error": TEXT}),
        "State": _object({"status": {"enum": ["live", "ready"]}}),
        **_taken(settings, TASKS[task]),
        **_prediction(TASKS[task]),
        **_operation_of_the_service(),
        **_protocol(settings.max_inputs, task),
    }


def _object(properties: dict[str, Schema], *optional: str, **more: Any) -> Schema:
    required = [name for name in properties if name not in optional]
    return {"type": "object", "properties": properties, "required": required, "additionalProperties": False, **more}


def _array(items: Schema, **more: Any) -> Schema:
    return {"type": "array", "items": items, **more}


def _taken(settings: ServeSettings, task: type[Task]) -> dict[str, Schema]:
    """Describe what a body of JSON, or a form, may be: to predict, and to embed."""
    most, noun = settings.max_inputs, task.noun
    options: dict[str, Schema] = {"top_k": {**TOP_K, "type": ["integer", "null"]}} if task.answers_with == "labels" else {}
    words: Schema = {**TEXT, "minLength": 1, "maxLength": settings.max_characters, "pattern": r"\S"}
    one = {"image": BASE64, "text": words, "pair": _array(words, minItems=2, maxItems=2)}[noun]
    taken = {
        f"{noun.capitalize()}s": _one_or_many(noun, one, most, **options),
        "ToEmbed": _one_or_many(noun, one, most),
    }
    return {**taken, "Files": _object({"file": _array(FILE, minItems=1, maxItems=most), "top_k": TOP_K}, "top_k")} if noun == "image" else taken


def _one_or_many(one: str, schema: Schema, most: int, **options: Schema) -> Schema:
    fields = {one: schema, f"{one}s": _array(schema, minItems=1, maxItems=most), **options}
    return _object(fields, *fields, oneOf=[{"required": [one]}, {"required": [f"{one}s"]}])


def _prediction(task: type[Task]) -> dict[str, Schema]:
    said: dict[str, Schema] = {"said": {"type": "boolean"}} if task.has_several else {}
    labels = _array(_object({"label": TEXT, "score": SCORE, **said}), minItems=1, maxItems=MOST_LABELS)
    return {
        "Predictions": _object({"request_id": TEXT, "model": ref("Model"), "predictions": _array(ref("Prediction"))}),
        "Embeddings": _object({"request_id": TEXT, "model": ref("Model"), "predictions": _array(_object({"embedding": _array({"type": "number"})}))}),
        "Model": _object({"name": TEXT, "version": TEXT, "variant": TEXT}),
        "Prediction": _object({"labels": labels, "score": SCORE}, "score") if task.noun == "pair" else _object({"labels": labels}),
        **(_entities() if task.answers_with == "entities" else {}),
        **({"Prediction": _object({"score": {"type": "number"}})} if task.answers_with == "score" else {}),
    }


def _entities() -> dict[str, Schema]:
    entity = _object({"label": TEXT, "start": COUNT, "end": COUNT, "text": {**TEXT, "minLength": 1}, "score": SCORE})
    return {"Entity": entity, "Prediction": _object({"entities": _array(ref("Entity"))})}


def _operation_of_the_service() -> dict[str, Schema]:
    rate: Schema = {"type": "number", "minimum": 0}
    capacity = {**_object({"requests_per_second": rate, "slo_p99_ms": rate, "measured": TEXT}), "type": ["object", "null"]}
    properties = {
        "offered_per_second": rate,
        "capacity": capacity,
        "utilisation": {**rate, "type": ["number", "null"]},
        "suggested_replicas": {**COUNT, "type": ["integer", "null"]},
        "target_per_second": rate,
        "hint": TEXT,
    }
    report = {"generation": COUNT, "name": TEXT, "version": TEXT, "variant": TEXT, "digest": TEXT, "error": TEXT}
    return {
        "Wish": _object({"to": {"enum": list(get_args(Direction)), "default": "current"}}, "to"),
        "Reports": _object({"workers": _array(_object(report))}),
        "Load": _object(properties, "target_per_second", "hint"),
        "ClientSchema": {"type": "object", "properties": {"name": TEXT, "type": TEXT, "routes": _array({"type": "object"})}, "required": ["routes"]},
    }


def _protocol(most: int, task: str) -> dict[str, Schema]:
    """Give the Open Inference Protocol's, which is open by design: what it does not name is passed over."""
    sizes = _array(COUNT, minItems=1, maxItems=MOST_AXES, prefixItems=[{"type": "integer", "minimum": 1, "maximum": most}])
    output_names: Schema = {"enum": [*outputs_of(TASKS[task]), *([] if TASKS[task].noun == "image" else [EMBEDDING])]}
    parameters: Schema = {"type": ["object", "null"]}
    wanted = _object({"name": output_names, "parameters": parameters}, "parameters", additionalProperties=True)
    request: dict[str, Schema] = {
        "id": {"type": ["string", "null"]},
        "inputs": _array(ref("InferInput"), minItems=1, maxItems=1),
        "outputs": {**_array(wanted), "type": ["array", "null"]},
        "parameters": parameters,
    }
    tensor: dict[str, Schema] = {
        "name": {"const": TASKS[task].tensor},
        "datatype": {"enum": ["UINT8", "BYTES"] if TASKS[task].noun == "image" else ["BYTES"]},
        "shape": sizes,
        "data": _array({}),
        "parameters": parameters,
    }
    kinds: Schema = {"enum": ["FP32", "BYTES"]}
    given: dict[str, Schema] = {"name": output_names, "datatype": kinds, "shape": _array(COUNT), "data": _array({}), "parameters": parameters}
    answer: dict[str, Schema] = {"model_name": TEXT, "model_version": TEXT, "id": TEXT, "outputs": _array(_object(given, "data", "parameters"))}
    return {
        "InferRequest": _object(request, "id", "outputs", "parameters", additionalProperties=True),
        "InferInput": _object(tensor, "data", "parameters", additionalProperties=True),
        "InferAnswer": _object(answer, "id"),
        **_descriptions(),
    }


def _descriptions() -> dict[str, Schema]:
    tensor = _object({"name": TEXT, "datatype": TEXT, "shape": _array({"type": "integer", "minimum": -1})})
    about = {"name": TEXT, "versions": _array(TEXT), "platform": TEXT, "inputs": _array(tensor), "outputs": _array(tensor)}
    return {
        "Server": _object({"name": TEXT, "version": TEXT, "extensions": _array(TEXT)}),
        "ModelMetadata": _object({**about, "parameters": {"type": "object", "additionalProperties": TEXT}}),
        "ModelReady": _object({"name": TEXT, "ready": {"type": "boolean"}}),
    }
