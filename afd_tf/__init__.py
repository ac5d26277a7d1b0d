"""Online knowledge distillation with adversarial feature maps, data to phone."""

__version__ = "0.1.0"
