"""The gRPC control plane: servicers that decode, call and encode; access control; audit. Makes no decisions about mail."""
