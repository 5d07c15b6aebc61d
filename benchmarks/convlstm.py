"""One ConvLSTM layer by stlib and by the common open-source cell: forward and backward over a sequence.

Layer: 8 sequences of 10 frames, 8 channels, 32 x 32 cells, 32 hidden channels, kernels of 3, float32; the squares of
all hidden states are averaged and differentiated. The common cell is written anew here after its description: a
convolution for each gate and each input, peepholes that are created full of zeros and not learned, one more pair of
convolutions for the peephole of the output gate and a last convolution of 1 x 1, neither of which is ever called. Both
get the same weights; hidden states and gradients are compared. Dead parameters are those without a gradient.

Training step: forecast, loss and gradient of the storm's windows (32 of 4 past steps, 6 channels, 33 x 36 cells,
4 leads) by each network on grids at its default size, for its peak memory.

Moving digits: what minutes of training give, for which the chapters have no time. One digit on 14 x 14 pixels, one
pixel a step; four frames in, four out; 3,000 batches of 16 films. Judged on the 256 films of the chapters, whose digits
are in no training film. The best possible error is 0.
"""

import time
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.measure import Contestant, contest
from stlib.data.worlds import MovingDigits
from stlib.models.advection import LagrangianPersistence
from stlib.models.baselines import Persistence
from stlib.models.cnn import CNN, CNN3d, UNet
from stlib.models.convlstm import ConvLSTM, ConvLSTMCell
from stlib.models.stcnn import STCNN

SHAPE = (8, 10, 8, 32, 32)  # (B, T, C, H, W)
HIDDEN = 32
STORM = (32, 4, 6, 33, 36)
ON_STORM = {
    "ConvLSTM": (ConvLSTM, {}),
    "ConvGRU": (ConvLSTM, {"cell": "gru"}),
    "STCNN": (STCNN, {"size": STORM[3:]}),
    "CNN": (CNN, {"past": STORM[1]}),
    "U-Net": (UNet, {"past": STORM[1]}),
    "CNN3d": (CNN3d, {"past": STORM[1]}),
}
FRAMES, BATCHES, BATCH = 4, 3000, 16  # past and horizon of moving digits
NETWORKS = {
    "ConvLSTM": (lambda: ConvLSTM(channels=1, horizon=FRAMES, hidden=16), 0.005),
    "LSTM per place": (lambda: ConvLSTM(channels=1, horizon=FRAMES, hidden=16, kernel=1), 0.005),
    "CNN": (lambda: CNN(channels=1, past=FRAMES, horizon=FRAMES, hidden=24, blocks=3), 0.003),
    "ST-CNN": (lambda: STCNN(channels=1, size=(14, 14), horizon=FRAMES), 0.002),
}
SIMPLE = {
    "persistence": Persistence(horizon=FRAMES),
    "Lagrangian persistence": LagrangianPersistence(horizon=FRAMES, edge="zeros", width=4.0),
}


class CommonCell(nn.Module):
    """The cell as many repositories have it: eight convolutions for four gates, and two that nobody calls."""

    def __init__(self, channels: int, hidden: int, kernel: int = 3):
        super().__init__()
        pad = kernel // 2
        self.of_input = nn.ModuleList(nn.Conv2d(channels, hidden, kernel, padding=pad) for _ in range(4))
        self.of_state = nn.ModuleList(nn.Conv2d(hidden, hidden, kernel, padding=pad, bias=False) for _ in range(4))
        self.output_peephole = nn.Conv2d(hidden, hidden, kernel, padding=pad)
        self.last = nn.Conv2d(hidden, hidden, 1)

    def forward(self, x: Tensor, z: Tensor, c: Tensor, peepholes: list[Tensor]) -> tuple[Tensor, Tensor]:
        i, f, g, o = (a(x) + b(z) for a, b in zip(self.of_input, self.of_state, strict=True))
        i, f = torch.sigmoid(i + c * peepholes[0]), torch.sigmoid(f + c * peepholes[1])
        c = f * c + i * torch.tanh(g)
        o = torch.sigmoid(o + c * peepholes[2])
        return o * torch.tanh(c), c


def ours() -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return ConvLSTMCell(channels=SHAPE[2], hidden=HIDDEN), torch.randn(SHAPE)


def theirs() -> tuple[nn.Module, Tensor]:
    """The common cell with the weights of ours."""
    (cell, x), common = ours(), CommonCell(SHAPE[2], HIDDEN)
    with torch.no_grad():
        gates = zip(cell.conv.conv.weight.chunk(4), cell.conv.conv.bias.chunk(4), strict=True)
        for number, (kernel, bias) in enumerate(gates):
            common.of_input[number].weight.copy_(kernel[:, : SHAPE[2]])
            common.of_input[number].bias.copy_(bias)
            common.of_state[number].weight.copy_(kernel[:, SHAPE[2] :])
    return common, x


def by_ours(prepared: tuple[nn.Module, Tensor]) -> dict:
    cell, x = prepared
    state, hidden = None, []
    for frame in x.unbind(1):
        state = cell(frame, state)
        hidden.append(state[0])
    answer = _learned(cell, torch.stack(hidden, 1))
    return answer | {"gradient": cell.conv.conv.weight.grad[:, : SHAPE[2]].clone()}


def by_theirs(prepared: tuple[nn.Module, Tensor]) -> dict:
    common, x = prepared
    z = c = torch.zeros(SHAPE[0], HIDDEN, *SHAPE[3:])
    peepholes, hidden = [torch.zeros(1, HIDDEN, *SHAPE[3:]) for _ in range(3)], []
    for frame in x.unbind(1):
        z, c = common(frame, z, c, peepholes)
        hidden.append(z)
    answer = _learned(common, torch.stack(hidden, 1))
    return answer | {"gradient": torch.cat([conv.weight.grad for conv in common.of_input])}


def _learned(cell: nn.Module, hidden: Tensor) -> dict:
    cell.zero_grad(set_to_none=True)
    hidden.square().mean().backward()
    sizes = [(parameter.numel(), parameter.grad is None) for parameter in cell.parameters()]
    return {
        "hidden": hidden.detach(),
        "parameters": sum(number for number, dead in sizes if not dead),
        "dead_parameters": sum(number for number, dead in sizes if dead),
    }


def network(name: str) -> tuple[nn.Module, Tensor, Tensor]:
    kind, options = ON_STORM[name]
    torch.manual_seed(0)
    return kind(channels=STORM[2], horizon=STORM[1], **options), torch.randn(STORM), torch.randn(STORM)


def training_step(prepared: tuple[nn.Module, Tensor, Tensor]) -> int:
    model, past, future = prepared
    model.zero_grad(set_to_none=True)
    (model(past) - future).square().mean().backward()
    return sum(parameter.numel() for parameter in model.parameters())


def films(part: str, count: int, seed: int) -> torch.Tensor:
    return MovingDigits(size=14, digits=1, max_speed=1, part=part).batch(count, 2 * FRAMES, seed=seed)


def train(name: str, *, batches: int = BATCHES) -> torch.nn.Module:
    make, rate = NETWORKS[name]
    torch.manual_seed(0)
    model = make()
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=batches, pct_start=0.1)
    for film in films("train", batches * BATCH, 0).split(BATCH):
        loss = (model(film[:, :FRAMES]) - film[:, FRAMES:]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


@torch.no_grad()
def errors(model: torch.nn.Module) -> dict:
    film = films("test", 256, 99)
    rmse = (model(film[:, :FRAMES]) - film[:, FRAMES:]).square().mean((0, 2, 3, 4)).sqrt()
    return {f"rmse_lead_{lead}": value for lead, value in enumerate(rmse.tolist(), start=1)}


def compare() -> list[dict]:
    cells = [Contestant("one convolution", "stlib-book", ours, by_ours)]
    cells += [Contestant("common cell", "torch", theirs, by_theirs)]
    rows, answers = contest(cells)
    for row, answer in zip(rows, answers, strict=True):
        row |= {"work": "layer", **{name: answer[name] for name in ("parameters", "dead_parameters")}}
    largest = max((answers[0][name] - answers[1][name]).abs().max().item() for name in ("hidden", "gradient"))
    rows[1]["largest_difference"] = largest
    networks = [Contestant(name, "stlib-book", partial(network, name), training_step) for name in ON_STORM]
    steps, counts = contest(networks)
    rows += [{"work": "training step", **row, "parameters": number} for row, number in zip(steps, counts, strict=True)]
    simple = [{"model": name, "source": "computed", **errors(model)} for name, model in SIMPLE.items()]
    return rows + [{"work": "moving digits", **row} for row in [*simple, *map(learned, NETWORKS)]]


def learned(name: str) -> dict:
    start = time.process_time()
    model = train(name)
    seconds = time.process_time() - start
    return {"model": name, "source": "timed once", "fit_cpu_seconds": seconds, **errors(model)}
