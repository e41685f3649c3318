#!/bin/sh
# The API with nothing but curl. Each call fails the script if the server refuses.
set -eu
url="${OCTAVO_BASE_URL:-http://127.0.0.1:8000/v1}"
key="${OCTAVO_API_KEY:-none}"

ask() { # ask PATH BODY
  curl --fail-with-body -sS -N "$url/$1" \
    -H "Authorization: Bearer $key" -H 'Content-Type: application/json' -d "$2"
}

echo '--- models'
curl --fail-with-body -sS "$url/models" -H "Authorization: Bearer $key"
echo
echo '--- a completion'
ask completions '{"model": "smollm2-135m-instruct", "prompt": "The capital of France is",
                  "max_tokens": 8, "temperature": 0}'
echo
echo '--- as it is written'
ask completions '{"model": "smollm2-135m-instruct", "prompt": "The capital of France is",
                  "max_tokens": 8, "temperature": 0, "stream": true}'
echo '--- tokens'
ask tokenize '{"prompt": "The capital of France is"}'
echo
