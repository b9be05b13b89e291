"""One weight quantizer a file, registered by its decorator and found by the registry."""
