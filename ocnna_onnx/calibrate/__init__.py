"""One streamed pass over the samples: layer outputs come in, statistics leave."""
