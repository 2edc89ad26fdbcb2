"""TensorFlow Serving's REST API, for its clients."""
