"""Image formats, looked at before their decoders are."""
