import hashlib
import sys

import requests

session = requests.Session()
answer = session.get(sys.argv[1] + "/blob", timeout=30)
print("GET", answer.status_code, hashlib.sha256(answer.content).hexdigest(), "HTTP/1.1")
try:
    session.post(sys.argv[1] + "/echo", json={"sent by": "requests"}, timeout=30).raise_for_status()
except requests.HTTPError as error:
    print("POST", error.response.status_code, error.response.headers["x-proxy-error"])
    print(error.response.text)
