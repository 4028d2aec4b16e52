"""The page in the browser, and ONNX."""
