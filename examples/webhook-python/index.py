"""Takes a webhook only if its sender knows the secret, as GitHub signs its webhooks:

    body='{"action":"opened"}'
    signature=$(printf %s "$body" | openssl dgst -sha256 -hmac change-me -hex | sed 's/.* //')
    curl localhost:9000/invoke/webhook-python -H "X-Hub-Signature-256: sha256=$signature" -d "$body"

Set a secret of your own when you deploy: offshoot deploy examples/webhook-python --env SECRET=...
"""

import hashlib
import hmac
import os


def handler(req):
    # The signature is over the bytes as they came, so it is checked before anything is parsed.
    wanted = "sha256=" + hmac.new(os.environ["SECRET"].encode(), req.bytes, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(wanted, req.headers.get("X-Hub-Signature-256", "")):
        return {"statusCode": 401, "body": {"error": "the signature does not fit"}}
    return {"statusCode": 202, "body": {"accepted": req.json().get("action")}}
