"""Says of each value what of it does not fit a JSON schema: by a validator that nobody here wrote.

Reads {"schema": ..., "values": [...]}, writes a list of lists of messages.
"""

import json
import sys

import jsonschema

asked = json.load(sys.stdin)
kind = jsonschema.validators.validator_for(asked["schema"], default=None)
kind.check_schema(asked["schema"])
validator = kind(asked["schema"])
json.dump([[error.message for error in validator.iter_errors(value)] for value in asked["values"]], sys.stdout)
