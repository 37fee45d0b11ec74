"""The losses of training in PyTorch, as the oracle of debut's: values, and derivatives by autograd.

    pip install torch
    python tests/golden/losses.py > tests/golden/losses.json     from the repository root

They are written as PyTorch's users write them (cosine_similarity, cross_entropy over a matrix of logits), in 64 bits, and
not as the closed forms of src/encoder/loss.rs, which the test there compares with them.
"""

import json

import torch
from torch.nn.functional import cosine_similarity, cross_entropy, normalize

torch.manual_seed(2014)
B, D, TEMPERATURE = 6, 4, 0.1
# Exact in 32 bits, as debut's are.
outputs = torch.randn(B, D).double()
targets = normalize(torch.randn(B, D)).float().double()
weights = (0.25 + torch.rand(B)).double()
own = torch.arange(B)


def contrastive(y):
    logits = normalize(y) @ normalize(targets).T / TEMPERATURE
    both = cross_entropy(logits, own, reduction="none") + cross_entropy(logits.T, own, reduction="none")
    return (weights * both / 2).mean()


def nt_xent(y):
    z = normalize(y)
    logits = (z @ z.T / TEMPERATURE).masked_fill(torch.eye(B, dtype=torch.bool), -torch.inf)
    return cross_entropy(logits, (own + B // 2) % B)


LOSSES = {
    "mse": lambda y: (weights * (y - targets).square().sum(1)).mean(),
    "cosine": lambda y: (weights * (1 - cosine_similarity(y, targets))).mean(),
    "contrastive": contrastive,
    "nt_xent": nt_xent,
}

golden = dict(temperature=TEMPERATURE, outputs=outputs.tolist(), targets=targets.tolist(), weights=weights.tolist())
golden["losses"] = {}
for name, loss in LOSSES.items():
    y = outputs.clone().requires_grad_()
    value = loss(y)
    value.backward()
    golden["losses"][name] = dict(value=value.item(), derivative=y.grad.tolist())
print(json.dumps(golden))
