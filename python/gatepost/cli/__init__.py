"""The `gatepost` command apart from `serve`: a gRPC client of a running server, through gatepost.client. docs/cli.md is its manual."""
