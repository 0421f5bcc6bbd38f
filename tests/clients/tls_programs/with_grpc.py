import sys

import grpc

# A call is a POST, so nothing can be read.
with grpc.secure_channel(sys.argv[1].removeprefix("https://"), grpc.ssl_channel_credentials()) as channel:
    call = channel.unary_unary("/netpolicy.Demo/Call", request_serializer=bytes, response_deserializer=bytes)
    try:
        call(b"sent by gRPC", timeout=20)
    except grpc.RpcError as error:
        print(error.code().name, error.details())
        print(error.trailing_metadata())
