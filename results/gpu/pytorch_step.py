"""AFD's training step of two ResNet-32 in PyTorch, a worker of `speed.py`.

The mathematics of `afd_tf.benchmarks.bare_loop`, which is that of `flags/cifar.cfg`,
on one batch of random images again and again:

    python results/gpu/pytorch_step.py eager|graph|compile float32|bfloat16

`eager` launches kernel after kernel, `graph` captures the whole step, its optimizers
included, into one CUDA graph, and `compile` runs the networks through `torch.compile`.
Strided convolutions pad on both sides, as PyTorch's do; TensorFlow's pad on one.
"""

import itertools
import sys
import time

import torch
from torch import nn
from torch.nn import functional

from afd_tf.benchmarks.worker_process import serve

_BATCH, _CLASSES, _TEMPERATURE = 128, 100, 3.0
_BLOCKS = 5  # in each of the three stages: 6 n + 2 = 32 layers
_WARM_UP_STEPS = 11


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, projected where the shape changes."""

    def __init__(self, inputs, filters, stride):
        super().__init__()
        self.first = convolution(inputs, filters, 3, stride)
        self.second = convolution(filters, filters, 3, 1)
        self.shortcut = nn.Identity()
        if stride != 1:
            self.shortcut = convolution(inputs, filters, 1, stride)

    def forward(self, maps):
        """Returns the maps behind the block."""
        residual = self.second(functional.relu(self.first(maps)))
        return functional.relu(residual + self.shortcut(maps))


class ResNet(nn.Module):
    """A CIFAR ResNet: images -> (feature map, logits)."""

    def __init__(self):
        super().__init__()
        self.stem = convolution(3, 16, 3, 1)
        blocks, inputs = [], 16
        for filters in (16, 32, 64):
            for index in range(_BLOCKS):
                stride = 2 if filters > 16 and index == 0 else 1
                blocks.append(Block(inputs, filters, stride))
                inputs = filters
        self.blocks = nn.Sequential(*blocks)
        self.classifier = nn.Linear(64, _CLASSES)

    def forward(self, images):
        """Returns the feature maps and logits of uint8 images [B, 3, 32, 32]."""
        maps = self.blocks(functional.relu(self.stem((images.float() - 120.0) / 70.0)))
        return maps, self.classifier(maps.mean((2, 3)))

    def body(self):
        """Returns the weights that the adversarial loss moves."""
        return [*self.stem.parameters(), *self.blocks.parameters()]


class Discriminator(nn.Module):
    """A strided convolution, then one as large as the rest: maps -> scores in 0..1."""

    def __init__(self):
        super().__init__()
        self.hidden = convolution(64, 64, 3, 2)
        self.score = nn.Conv2d(64, 1, 4)

    def forward(self, maps):
        """Returns the scores of feature maps [B, 64, 8, 8], float32 [B]."""
        hidden = functional.leaky_relu(self.hidden(maps), 0.2)
        return torch.sigmoid(self.score(hidden).float()).flatten()


def convolution(inputs, filters, size, stride):
    """Returns a convolution without bias and its batch normalization."""
    return nn.Sequential(
        nn.Conv2d(inputs, filters, size, stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(filters),
    )


class Training:
    """Two peers, their discriminators and optimizers.

    Args:
      precision: "float32", where convolutions take TF32 as TensorFlow's do, or
        "bfloat16", by autocast.
      compiled: whether the networks go through `torch.compile`.
    """

    def __init__(self, precision, compiled):
        torch.backends.cuda.matmul.allow_tf32 = True
        torch.backends.cudnn.benchmark = True
        self._autocast = precision == "bfloat16"
        peers = [ResNet().cuda() for _ in range(2)]
        discriminators = [Discriminator().cuda() for _ in range(2)]
        parameters = [list(peer.parameters()) for peer in peers]
        judges = [list(each.parameters()) for each in discriminators]
        bodies = [peer.body() for peer in peers]
        self.count = sum(p.numel() for group in parameters + judges for p in group)
        self._groups = {"logit": parameters, "judge": judges, "body": bodies}
        self._sgd = torch.optim.SGD(
            [*itertools.chain(*parameters)],
            0.1,
            momentum=0.9,
            weight_decay=1e-4,
            fused=True,
        )
        self._adam = {
            name: torch.optim.Adam(
                [*itertools.chain(*self._groups[name])],
                2e-5,
                weight_decay=0.1,
                fused=True,
                capturable=True,
            )
            for name in ("judge", "body")
        }
        if compiled:
            # The same activations serve several gradients.
            torch._functorch.config.donated_buffer = False
        wrap = torch.compile if compiled else lambda network: network
        self._peers = [wrap(peer) for peer in peers]
        self._discriminators = [wrap(each) for each in discriminators]
        self._images = torch.randint(
            0, 256, (_BATCH, 3, 32, 32), dtype=torch.uint8, device="cuda"
        )
        self._labels = torch.randint(0, _CLASSES, (_BATCH,), device="cuda")

    def step(self):
        """Takes one step."""
        losses = self._losses()
        gradients = {
            name: [
                torch.autograd.grad(loss, group, retain_graph=True)
                for loss, group in zip(losses[name], groups, strict=True)
            ]
            for name, groups in self._groups.items()
        }
        for name, optimizer in (("logit", self._sgd), *self._adam.items()):
            for group, own in zip(self._groups[name], gradients[name], strict=True):
                for parameter, gradient in zip(group, own, strict=True):
                    parameter.grad = gradient
            optimizer.step()

    def _losses(self):
        """Returns L_logit, L_D and L_G of each peer, as "logit", "judge", "body"."""
        losses = {"logit": [], "judge": [], "body": []}
        with torch.autocast("cuda", torch.bfloat16, enabled=self._autocast):
            outputs = [peer(self._images) for peer in self._peers]
            for own, other in ((0, 1), (1, 0)):
                maps, logits = outputs[own]
                other_maps, other_logits = (each.detach() for each in outputs[other])
                divergence = functional.kl_div(
                    functional.log_softmax(logits.float() / _TEMPERATURE, -1),
                    functional.softmax(other_logits.float() / _TEMPERATURE, -1),
                    reduction="batchmean",
                )
                entropy = functional.cross_entropy(logits.float(), self._labels)
                losses["logit"].append(entropy + _TEMPERATURE**2 * divergence)
                judge = self._discriminators[own]
                fake, real = judge(maps), judge(other_maps)
                losses["judge"].append(((1 - real) ** 2 + fake**2).mean())
                losses["body"].append(((1 - fake) ** 2).mean())
        return losses


def prepare():
    """Warms up what the command line names; returns a description and its answers."""
    mode, precision = sys.argv[1:]
    training = Training(precision, compiled=mode == "compile")
    # A graph is captured on another stream than the default one.
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(_WARM_UP_STEPS):
            training.step()
    torch.cuda.synchronize()
    take_step = training.step
    if mode == "graph":
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            training.step()
        take_step = graph.replay

    def answer(request):
        began = time.perf_counter()
        for _ in range(request["steps"]):
            take_step()
        torch.cuda.synchronize()
        return {
            "seconds": time.perf_counter() - began,
            "peak_memory": torch.cuda.max_memory_allocated(),
        }

    description = {"trained_parameters": training.count, "version": torch.__version__}
    return description, answer


if __name__ == "__main__":
    serve(prepare)
