"""Trains models/trained/water_flow: a GRU that foretells the next hour's flow. Needs PyTorch (extra `train`).

Run `python -m models.train_forecaster examples/water-flow.csv models/trained`. The state starts at zeros and runs
through the whole series; early hours train it, later ones choose the epoch, the last quarter is only measured.
"""

import argparse
import csv
from pathlib import Path

import numpy as np
import onnx
import torch

from models.cells import Clock, Scale, build, from_torch

SEED, HIDDEN, EPOCHS, WINDOW, PATIENCE = 7, 24, 1500, 144, 300
TRAIN, CHOOSE = 0.6, 0.75
"""Where in the series the hours end that train, and those that choose."""
CLOCK = Clock(period=24, harmonics=4)
OUTLIER = 2.0
"""l/s within one hour: pumps and closed valves, which no model could foresee and none should learn."""


class Forecaster(torch.nn.Module):  # type: ignore[misc]  # torch is in no lock, so Any here
    """x [batch, time, columns], the flow first, all normalised -> the next hour's flow [batch, time, 1]."""

    def __init__(self) -> None:
        super().__init__()
        self.gru = torch.nn.GRU(1 + 2 * CLOCK.harmonics, HIDDEN, batch_first=True)
        self.head = torch.nn.Linear(HIDDEN, 1)
        torch.nn.init.zeros_(self.head.weight)
        torch.nn.init.zeros_(self.head.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The flow of this hour and what the cell adds to it."""
        return x[..., :1] + self.head(self.gru(x)[0])


def read(path: Path) -> np.ndarray:
    """Columns flow (l/s) and hour of the day, one row an hour: [hours, 2]."""
    with path.open(newline="") as file:
        return np.array([[float(row["flow"]), float(row["hour"])] for row in csv.DictReader(file)], np.float32)


def columns(feed: np.ndarray, scale: Scale) -> torch.Tensor:
    """What the cell sees of the whole series: [1, hours, columns]."""
    flow = (feed[:, :1] - scale.mean) / scale.deviation
    return torch.from_numpy(np.concatenate([flow, CLOCK.columns(feed[:, 1])], axis=1).astype(np.float32))[None]


def train(feed: np.ndarray, scale: Scale) -> Forecaster:
    """The forecaster of the epoch that did best between TRAIN and CHOOSE."""
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    random = np.random.default_rng(SEED)
    model = Forecaster()
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2)
    flow, series = feed[:, 0], columns(feed, scale)
    usual = torch.from_numpy(np.abs(np.diff(flow)) < OUTLIER)[None, :, None]
    end, until = int(len(flow) * TRAIN), int(len(flow) * CHOOSE)
    best, best_at, chosen = np.inf, 0, model.state_dict()
    for epoch in range(EPOCHS):
        starts = random.integers(0, end - WINDOW - 1, 16)
        x = torch.cat([series[:, at : at + WINDOW] for at in starts])
        y = torch.cat([series[:, at + 1 : at + WINDOW + 1, :1] for at in starts])
        mask = torch.cat([usual[:, at : at + WINDOW] for at in starts])
        loss = torch.nn.functional.huber_loss(model(x)[mask], y[mask], delta=0.2)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        with torch.no_grad():
            errors = (model(series[:, :-1]) - series[:, 1:, :1]).abs()[:, end:until][usual[:, end:until]]
        if (error := float(errors.mean())) < best:
            best, best_at = error, epoch
            chosen = {name: value.clone() for name, value in model.state_dict().items()}
        if epoch - best_at > PATIENCE:
            break
    print(f"epoch {best_at}: {best * scale.deviation:.4f} l/s while choosing")
    model.load_state_dict(chosen)
    return model


def main() -> None:
    """Train, measure on the last quarter, write the graph."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("series", type=Path)
    parser.add_argument("repository", type=Path)
    arguments = parser.parse_args()
    feed = read(arguments.series)
    flow = feed[:, 0]
    first = flow[: int(len(flow) * TRAIN)]
    scale = Scale(float(np.median(first)), float(np.quantile(first, 0.75) - np.quantile(first, 0.25)))
    model = train(feed, scale)
    arrays = {name: value.numpy() for name, value in model.state_dict().items()}
    weights = from_torch("gru", {k.removeprefix("gru."): v for k, v in arrays.items()}, head="head")
    path = arguments.repository / "water_flow" / "1" / "model.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save_model(build(weights, scale=scale, clock=CLOCK, residual=True), path)
    with torch.no_grad():
        said = model(columns(feed, scale))[0, :, 0].numpy()
    said = said * scale.deviation + scale.mean
    at = int(len(flow) * CHOOSE)
    for name, errors in (("forecaster", said[at:-1] - flow[at + 1 :]), ("last value", np.diff(flow[at:]))):
        print(f"{name}: mean {np.abs(errors).mean():.4f} l/s, root mean square {np.sqrt((errors**2).mean()):.4f} l/s")


if __name__ == "__main__":
    main()
