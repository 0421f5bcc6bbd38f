import hashlib
import sys

import httpx

with httpx.Client(http2="http2" in sys.argv, timeout=30) as client:
    answer = client.get(sys.argv[1] + "/blob")
    print("GET", answer.status_code, hashlib.sha256(answer.content).hexdigest(), answer.http_version)
    try:
        client.post(sys.argv[1] + "/echo", json={"sent by": "httpx"}).raise_for_status()
    except httpx.HTTPStatusError as error:
        print("POST", error.response.status_code, error.response.headers["x-proxy-error"])
        print(error.response.text)
