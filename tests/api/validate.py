"""Holds answers against the description of the API.

Reads {"api": OpenAPI document, "answers": [[where in it the schema is, the answer], ..]}, and prints what does not fit.
"""

import json
import sys

import jsonschema

question = json.load(sys.stdin)
resolver = jsonschema.RefResolver.from_schema(question["api"])
for where, answer in question["answers"]:
    schema = {"$ref": "#" + where}
    for error in jsonschema.Draft202012Validator(schema, resolver=resolver).iter_errors(answer):
        print(f"{where}: {list(error.absolute_path)}: {error.message[:300]}")
