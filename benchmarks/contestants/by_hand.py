"Plain PyTorch: what one would write without a library"

import torch
import torch.nn.functional as F

NAME, PACKAGE = 'by hand', 'torch'


def fit(model, batches, lr, epochs):
    opt = torch.optim.SGD(model.parameters(), lr)
    model.train()
    for _ in range(epochs):
        total, right, n = 0, 0, 0
        for xb, yb in batches:
            preds = model(xb)
            loss = F.cross_entropy(preds, yb)
            loss.backward()
            opt.step()
            opt.zero_grad()
            total += loss.detach() * len(xb)
            right += (preds.argmax(1) == yb).sum()
            n += len(xb)
    return total.item() / n, right.item() / n


def loader(x, y, bs, mean, std):
    "Shuffled, normalised batches of the uint8 images `x`, as this library gives them"
    for idx in torch.randperm(len(x)).split(bs):
        yield (x[idx].float() / 255 - mean) / std, y[idx]
