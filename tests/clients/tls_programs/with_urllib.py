import hashlib
import ssl
import sys
import urllib.error
import urllib.request

context = ssl.create_default_context()
if "strict" in sys.argv:  # the default from Python 3.13 on
    context.verify_flags |= ssl.VERIFY_X509_STRICT
if sys.version_info >= (3, 13):
    assert context.verify_flags & ssl.VERIFY_X509_STRICT
opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
with opener.open(sys.argv[1] + "/blob", timeout=30) as answer:
    print("GET", answer.status, hashlib.sha256(answer.read()).hexdigest(), "HTTP/1.1")
try:
    opener.open(sys.argv[1] + "/echo", data=b"sent by urllib", timeout=30)
except urllib.error.HTTPError as error:
    print("POST", error.code, error.headers["x-proxy-error"])
    print(error.read().decode())
