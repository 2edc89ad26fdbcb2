"""The messages of the protocol's gRPC service, with the names and numbers that are public.

The text is proto3 as far as it is needed. It is compiled when the module is imported, into a pool of its own:
a process may hold another library's messages of the same names.
"""

from __future__ import annotations

import re
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "inference"
SERVICE = "inference.GRPCInferenceService"

PROTO = """
message ServerLiveRequest {}
message ServerLiveResponse { bool live = 1; }
message ServerReadyRequest {}
message ServerReadyResponse { bool ready = 1; }
message ModelReadyRequest { string name = 1; string version = 2; }
message ModelReadyResponse { bool ready = 1; }
message ServerMetadataRequest {}
message ServerMetadataResponse { string name = 1; string version = 2; repeated string extensions = 3; }
message ModelMetadataRequest { string name = 1; string version = 2; }
message TensorMetadata { string name = 1; string datatype = 2; repeated int64 shape = 3; }
message ModelMetadataResponse {
  string name = 1;
  repeated string versions = 2;
  string platform = 3;
  repeated TensorMetadata inputs = 4;
  repeated TensorMetadata outputs = 5;
}
message InferParameter {
  oneof parameter_choice {
    bool bool_param = 1;
    int64 int64_param = 2;
    string string_param = 3;
    double double_param = 4;
    uint64 uint64_param = 5;
  }
}
message InferTensorContents {
  repeated bool bool_contents = 1;
  repeated int32 int_contents = 2;
  repeated int64 int64_contents = 3;
  repeated uint32 uint_contents = 4;
  repeated uint64 uint64_contents = 5;
  repeated float fp32_contents = 6;
  repeated double fp64_contents = 7;
  repeated bytes bytes_contents = 8;
}
message InferInputTensor {
  string name = 1;
  string datatype = 2;
  repeated int64 shape = 3;
  map<string, InferParameter> parameters = 4;
  InferTensorContents contents = 5;
}
message InferRequestedOutputTensor { string name = 1; map<string, InferParameter> parameters = 2; }
message ModelInferRequest {
  string model_name = 1;
  string model_version = 2;
  string id = 3;
  map<string, InferParameter> parameters = 4;
  repeated InferInputTensor inputs = 5;
  repeated InferRequestedOutputTensor outputs = 6;
  repeated bytes raw_input_contents = 7;
}
message InferOutputTensor {
  string name = 1;
  string datatype = 2;
  repeated int64 shape = 3;
  map<string, InferParameter> parameters = 4;
  InferTensorContents contents = 5;
}
message ModelInferResponse {
  string model_name = 1;
  string model_version = 2;
  string id = 3;
  map<string, InferParameter> parameters = 4;
  repeated InferOutputTensor outputs = 5;
  repeated bytes raw_output_contents = 6;
}
message ModelStreamInferResponse { string error_message = 1; ModelInferResponse infer_response = 2; }

message ModelConfigRequest { string name = 1; string version = 2; }
message ModelConfigResponse { ModelConfig config = 1; }
message VersionNumbers { repeated int64 versions = 1; }
message ModelVersionPolicy { VersionNumbers specific = 3; }
message ModelInput { string name = 1; int32 data_type = 2; repeated int64 dims = 4; }
message ModelOutput { string name = 1; int32 data_type = 2; repeated int64 dims = 3; }
message ModelInstanceGroup { string name = 1; int32 kind = 4; int32 count = 2; }
message ModelQueuePolicy {
  int32 timeout_action = 1;
  uint64 default_timeout_microseconds = 2;
  bool allow_timeout_override = 3;
  uint32 max_queue_size = 4;
}
message ModelDynamicBatching {
  repeated int32 preferred_batch_size = 1;
  uint64 max_queue_delay_microseconds = 2;
  bool preserve_ordering = 3;
  uint64 priority_levels = 4;
  uint64 default_priority_level = 5;
  ModelQueuePolicy default_queue_policy = 6;
}
message ModelTransactionPolicy { bool decoupled = 1; }
message ModelConfig {
  string name = 1;
  string platform = 2;
  ModelVersionPolicy version_policy = 3;
  int32 max_batch_size = 4;
  repeated ModelInput input = 5;
  repeated ModelOutput output = 6;
  repeated ModelInstanceGroup instance_group = 7;
  string default_model_filename = 8;
  ModelDynamicBatching dynamic_batching = 11;
  string backend = 17;
  ModelTransactionPolicy model_transaction_policy = 19;
}

message ModelStatisticsRequest { string name = 1; string version = 2; }
message StatisticDuration { uint64 count = 1; uint64 ns = 2; }
message InferStatistics {
  StatisticDuration success = 1;
  StatisticDuration fail = 2;
  StatisticDuration queue = 3;
  StatisticDuration compute_input = 4;
  StatisticDuration compute_infer = 5;
  StatisticDuration compute_output = 6;
  StatisticDuration cache_hit = 7;
  StatisticDuration cache_miss = 8;
}
message InferBatchStatistics {
  uint64 batch_size = 1;
  StatisticDuration compute_input = 2;
  StatisticDuration compute_infer = 3;
  StatisticDuration compute_output = 4;
}
message ModelStatistics {
  string name = 1;
  string version = 2;
  uint64 last_inference = 3;
  uint64 inference_count = 4;
  uint64 execution_count = 5;
  InferStatistics inference_stats = 6;
  repeated InferBatchStatistics batch_stats = 7;
}
message ModelStatisticsResponse { repeated ModelStatistics model_stats = 1; }

message ModelRepositoryParameter {
  oneof parameter_choice {
    bool bool_param = 1;
    int64 int64_param = 2;
    string string_param = 3;
    bytes bytes_param = 4;
  }
}
message RepositoryIndexRequest { string repository_name = 1; bool ready = 2; }
message ModelIndex { string name = 1; string version = 2; string state = 3; string reason = 4; }
message RepositoryIndexResponse { repeated ModelIndex models = 1; }
message RepositoryModelLoadRequest {
  string repository_name = 1;
  string model_name = 2;
  map<string, ModelRepositoryParameter> parameters = 3;
}
message RepositoryModelLoadResponse {}
message RepositoryModelUnloadRequest {
  string repository_name = 1;
  string model_name = 2;
  map<string, ModelRepositoryParameter> parameters = 3;
}
message RepositoryModelUnloadResponse {}
"""

DATA_TYPES = (
    *("TYPE_INVALID", "TYPE_BOOL", "TYPE_UINT8", "TYPE_UINT16", "TYPE_UINT32", "TYPE_UINT64", "TYPE_INT8"),
    *("TYPE_INT16", "TYPE_INT32", "TYPE_INT64", "TYPE_FP16", "TYPE_FP32", "TYPE_FP64", "TYPE_STRING"),
)
"""The numbers of the enumeration of a configuration's `data_type`."""

INSTANCE_KINDS = ("KIND_AUTO", "KIND_GPU", "KIND_CPU", "KIND_MODEL")
TIMEOUT_ACTIONS = ("REJECT", "DELAY")

_FIELD = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    name: getattr(_FIELD, f"TYPE_{name.upper()}")
    for name in ("bool", "int32", "int64", "uint32", "uint64", "float", "double", "string", "bytes")
}
_TOKEN = re.compile(r"[\w.]+|[{}=;<>,]")


class _Compiler:
    """From the text to descriptors, token by token."""

    def __init__(self, text: str) -> None:
        self._tokens = iter(_TOKEN.findall(text))
        self.file = descriptor_pb2.FileDescriptorProto(
            name="quire/inference.proto", package=PACKAGE, syntax="proto3"
        )

    def compile(self) -> descriptor_pb2.FileDescriptorProto:
        """Reads all messages."""
        for token in self._tokens:
            assert token == "message", token
            self._read_message(self.file.message_type.add(name=next(self._tokens)))
        return self.file

    def _read_message(self, message: descriptor_pb2.DescriptorProto) -> None:
        assert next(self._tokens) == "{"
        while (token := next(self._tokens)) != "}":
            if token == "oneof":
                message.oneof_decl.add(name=next(self._tokens))
                assert next(self._tokens) == "{"
                while (kind := next(self._tokens)) != "}":
                    self._read_field(message, kind).oneof_index = len(message.oneof_decl) - 1
            elif token == "map":
                self._read_map(message)
            elif token == "repeated":
                self._read_field(message, next(self._tokens)).label = _FIELD.LABEL_REPEATED
            else:
                self._read_field(message, token)

    def _read_field(
        self, message: descriptor_pb2.DescriptorProto, kind: str
    ) -> descriptor_pb2.FieldDescriptorProto:
        name, equals, number, end = (next(self._tokens) for _ in range(4))
        assert (equals, end) == ("=", ";"), name
        return _add_field(message, kind, name, int(number))

    def _read_map(self, message: descriptor_pb2.DescriptorProto) -> None:
        opening, key, _, value, closing = (next(self._tokens) for _ in range(5))
        assert (opening, closing) == ("<", ">")
        name = f"{message.name}Parameters"  # of the one map that a message has
        entry = message.nested_type.add(name="ParametersEntry")
        entry.options.map_entry = True
        _add_field(entry, key, "key", 1)
        _add_field(entry, value, "value", 2)
        field = self._read_field(message, f"{message.name}.{entry.name}")
        field.label = _FIELD.LABEL_REPEATED
        assert field.name == "parameters", name


def _add_field(
    message: descriptor_pb2.DescriptorProto, kind: str, name: str, number: int
) -> descriptor_pb2.FieldDescriptorProto:
    field = message.field.add(name=name, number=number, label=_FIELD.LABEL_OPTIONAL)
    if kind in _SCALARS:
        field.type = _SCALARS[kind]
    else:
        field.type, field.type_name = _FIELD.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
    return field


_POOL = descriptor_pool.DescriptorPool()
_POOL.Add(_Compiler(PROTO).compile())


def message_class(name: str) -> Any:
    """The class of a message."""
    return message_factory.GetMessageClass(_POOL.FindMessageTypeByName(f"{PACKAGE}.{name}"))
