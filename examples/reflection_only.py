"""Lists, holds and releases without any code of Gatepost: all it knows it learns from server reflection.

    pip install grpcio grpcio-reflection
    python examples/reflection_only.py var/control.sock

Shows what a client in any language can do with nothing but the address: find the services, read the shapes of their messages, call them.
"""

import sys
from typing import Any

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SERVICE = "gatepost.api.queue.v1.QueueService"
SECONDS = 20


class Remote:
    """Calls unary methods of one service by name, with dictionaries."""

    def __init__(self, channel: grpc.Channel, service: str) -> None:
        self._channel = channel
        self._service = service
        self._pool = descriptor_pool.DescriptorPool(ProtoReflectionDescriptorDatabase(channel))

    def call(self, method: str, **fields: Any) -> dict[str, Any]:
        """Send the fields, return the answer's. Raises grpc.RpcError."""
        description = self._pool.FindServiceByName(self._service).FindMethodByName(method)
        request = json_format.ParseDict(fields, message_factory.GetMessageClass(description.input_type)())
        answer = message_factory.GetMessageClass(description.output_type)
        invoke = self._channel.unary_unary(
            f"/{self._service}/{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )
        return json_format.MessageToDict(invoke(request, timeout=SECONDS), preserving_proto_field_name=True)


def main(path: str) -> int:
    """List everything, hold the oldest message, release it."""
    with grpc.insecure_channel(f"unix:{path}") as channel:
        print("services:", ", ".join(sorted(ProtoReflectionDescriptorDatabase(channel).get_services())))
        queue = Remote(channel, SERVICE)
        messages = queue.call("ListMessages").get("messages", [])
        for message in messages:
            print(message["message_id"], message.get("sender", "<>"), message["size"], "held" if message.get("held") else "")
        if not messages:
            print("the queue is empty")
            return 0
        oldest = {"message_ids": [messages[0]["message_id"]]}
        print("hold:", queue.call("HoldMessages", selection=oldest)["result"])
        print("release:", queue.call("ReleaseMessages", selection=oldest)["result"])
    return 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
