"""Trains the digit classifier of the demo and writes testdata/models/digits.

Why: the demo and the tests need a network that was really trained, on pictures that somebody really drew, small
enough to be committed. The data are the 1,797 handwritten digits (8x8 pixels, 17 grey levels) that ship with
scikit-learn, so nothing is downloaded.

A quarter of the pictures, stratified by digit, is held out before training; training never sees it and the number
of epochs is fixed beforehand, so its accuracy is an honest estimate. The ten PNGs are the first held-out picture of
each digit: chosen by position, not by whether the network gets them right.

Needs `pip install torch scikit-learn onnx pillow`. Usage: python tools/train_digits.py
"""

import json
import pathlib

import numpy as np
import onnx
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

SEED = 0
EPOCHS = 60
BATCH = 64
OUT_DIR = pathlib.Path(__file__).resolve().parent.parent / "testdata" / "models" / "digits"


class DigitNet(nn.Module):
    """Pictures [batch, 1, 8, 8] with pixels in 0..1 to logits [batch, 10]."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.BatchNorm2d(32),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 3, padding=1),
            nn.BatchNorm2d(64),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        self.classify = nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 2 * 2, 10))

    def forward(self, pictures):
        return self.classify(self.features(pictures))


def load_pictures():
    """All pictures as 8-bit grey [n, 8, 8], as a PNG stores them, and their labels."""
    digits = load_digits()
    return np.round(digits.images * (255 / 16)).astype(np.uint8), digits.target


def to_input(grey):
    """8-bit grey pictures to the network's input: what every caller has to do with a PNG's pixels."""
    return torch.from_numpy(grey.astype(np.float32) / 255).unsqueeze(1)


def shift(pictures, generator):
    """Moves the batch by at most one pixel in each direction; the border is background."""
    down, right = torch.randint(0, 3, (2,), generator=generator).tolist()
    return nn.functional.pad(pictures, (1, 1, 1, 1))[:, :, down : down + 8, right : right + 8]


def train(model, pictures, labels):
    generator = torch.Generator().manual_seed(SEED)
    steps = -(-len(labels) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1e-2, epochs=EPOCHS, steps_per_epoch=steps)
    model.train()
    for _ in range(EPOCHS):
        for batch in torch.randperm(len(labels), generator=generator).split(BATCH):
            logits = model(shift(pictures[batch], generator))
            loss = nn.functional.cross_entropy(logits, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    model.eval()


def export(model, path):
    """Writes the model with a softmax at its end, as ONNX opset 18 with a symbolic batch. Batch normalisation stays
    a node of its own (PRESERVE), as the compiler under test is to deal with it."""
    torch.onnx.export(
        nn.Sequential(model, nn.Softmax(dim=1)).eval(),
        (torch.zeros(1, 1, 8, 8),),
        path,
        input_names=["pictures"],
        output_names=["probabilities"],
        dynamic_axes={"pictures": {0: "batch"}, "probabilities": {0: "batch"}},
        opset_version=18,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
        dynamo=False,
    )
    onnx.checker.check_model(str(path), full_check=True)


def write_samples(model, pictures, labels):
    """The first picture of each digit as PNG, its label, and the probabilities that PyTorch computes for it."""
    firsts = [int(np.flatnonzero(labels == digit)[0]) for digit in range(10)]
    names = [f"{digit}.png" for digit in range(10)]
    for name, index in zip(names, firsts):
        Image.fromarray(pictures[index]).save(OUT_DIR / name)
    (OUT_DIR / "labels.txt").write_text("".join(f"{name} {labels[i]}\n" for name, i in zip(names, firsts)))
    with torch.no_grad():
        probabilities = torch.softmax(model(to_input(pictures[firsts])), dim=1)
    rows = [f'  "{name}": {json.dumps([float(p) for p in row])}' for name, row in zip(names, probabilities)]
    (OUT_DIR / "expected.json").write_text("{\n" + ",\n".join(rows) + "\n}\n")


def write_readme(model, train_count, right, test_count, sample_right):
    parameters = sum(p.numel() for p in model.parameters())
    (OUT_DIR / "README.md").write_text(
        f"""# digits: a small network on real handwriting

Written by `tools/train_digits.py`; don't edit. The network (three 3x3 convolutions with batch normalisation and relu,
two max-poolings, a linear layer, softmax; {parameters:,} parameters) was trained with PyTorch
on {train_count:,} of the 1,797 pictures of scikit-learn's bundled digits data set.

Accuracy on the {test_count} held-out pictures: {right} right, {100 * right / test_count:.2f} %.

| file | what |
|---|---|
| `digits.onnx` | `pictures` f32[batch, 1, 8, 8], grey value / 255, to `probabilities` f32[batch, 10]; opset 18 |
| `0.png` ... `9.png` | the first held-out picture of each digit, 8x8, 8-bit grey; PyTorch gets {sample_right} of 10 right |
| `labels.txt` | file name and true digit |
| `expected.json` | file name and the ten probabilities that PyTorch computes |

The pictures come from the data set "Optical Recognition of Handwritten Digits" (E. Alpaydin, C. Kaynak, 1998, UCI
Machine Learning Repository, CC BY 4.0), scaled here from 17 to 256 grey levels.
"""
    )


def main():
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    pictures, labels = load_pictures()
    train_pictures, test_pictures, train_labels, test_labels = train_test_split(
        pictures, labels, test_size=0.25, stratify=labels, random_state=SEED
    )
    model = DigitNet()
    train(model, to_input(train_pictures), torch.from_numpy(train_labels))
    with torch.no_grad():
        predicted = model(to_input(test_pictures)).argmax(dim=1).numpy()
    is_right = predicted == test_labels
    sample_right = sum(bool(is_right[np.flatnonzero(test_labels == digit)[0]]) for digit in range(10))

    OUT_DIR.mkdir(parents=True, exist_ok=True)
    export(model, OUT_DIR / "digits.onnx")
    write_samples(model, test_pictures, test_labels)
    write_readme(model, len(train_labels), int(is_right.sum()), len(test_labels), sample_right)
    print(f"held out: {is_right.sum()} of {len(test_labels)} right; samples: {sample_right} of 10 right")


if __name__ == "__main__":
    main()
