"""Small networks as exporters write them, with gradients of torch.autograd in float64: made by `make.py`."""
