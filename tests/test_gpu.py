"""What runs on the CPU runs on a GPU, with the same answers. Skipped where there is none."""

import copy

import numpy as np
import pytest
import torch

from stlib.data.scaling import Scaled, Scaler
from stlib.data.windows import split
from stlib.data.worlds import AdvectionDiffusion
from stlib.evaluation.backtest import backtest, score
from stlib.models.advection import LagrangianPersistence
from stlib.models.arima import ARIMA
from stlib.models.arima_search import search
from stlib.models.baselines import Climatology, DampedAnomaly, Drift, Persistence, SeasonalPersistence
from stlib.models.cnn import CNN, CNN3d, UNet
from stlib.models.convlstm import ConvLSTM
from stlib.models.garch import GARCH
from stlib.models.lim import LIM
from stlib.models.linear import DLinear, NLinear
from stlib.models.recurrent import Recurrent
from stlib.models.recursive import Recursive
from stlib.models.seasonal import Seasonal
from stlib.models.starma import STARMA
from stlib.models.stcnn import STCNN
from stlib.models.tcn import TCN
from stlib.models.var import VAR
from stlib.training.fit import fit

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")

PAST, HORIZON = 8, 4
FIELD = AdvectionDiffusion(size=16).simulate(300, seed=0)


def parts(device):
    return split(FIELD.where(FIELD < 2.5), past=PAST, horizon=HORIZON, device=device)


def forecasters(p):
    series = p.train.series
    yield Persistence(horizon=HORIZON)
    yield SeasonalPersistence(horizon=HORIZON, season=3)
    yield Drift(horizon=HORIZON)
    yield Climatology(horizon=HORIZON, cycle=None).fit(series)
    yield DampedAnomaly(horizon=HORIZON, cycle=None, per="place").fit(series)
    yield NLinear(past=PAST, horizon=HORIZON).to(series.device).fit(series, p.validation.series)
    yield NLinear(past=PAST, horizon=HORIZON, places=256).to(series.device).fit(series, p.validation.series)
    yield AdvectionDiffusion(size=16).optimal_forecaster(HORIZON).to(series.device)


def test_forecasts_are_those_of_the_cpu():
    cpu, gpu = parts("cpu"), parts("cuda")
    assert gpu.train[:2].past.device.type == "cuda"
    for on_cpu, on_gpu in zip(forecasters(cpu), forecasters(gpu), strict=True):
        if type(on_cpu).__name__ == "OptimalAdvection":
            continue  # it passes missing cells on to the whole map
        a, b = backtest(on_cpu, cpu.test), backtest(on_gpu, gpu.test)
        np.testing.assert_allclose(a.forecast, b.forecast, rtol=2e-3, atol=2e-3)
        np.testing.assert_allclose(score(a), score(b), rtol=1e-3)


def statistical_models():
    series = torch.randn(150, 1, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    walks = series.cumsum(0)
    gappy = walks.clone()
    gappy[40:45, 0, 2] = torch.nan
    ring = torch.eye(6).roll(1, 0) / 2 + torch.eye(6).roll(-1, 0) / 2
    yield ARIMA(order=(1, 1, 1), horizon=HORIZON), walks
    yield ARIMA(order=(2, 0, 1), trend="mean", horizon=HORIZON), series
    yield ARIMA(order=(0, 1, 1), seasonal=(0, 0, 1), season=4, horizon=HORIZON), gappy
    yield GARCH(horizon=HORIZON), series
    yield GARCH(kind="egarch", horizon=HORIZON), series
    yield VAR(lags=1, horizon=HORIZON), series
    yield STARMA(weights=ring, ar=1, ma=1, horizon=HORIZON), series
    yield LIM(modes=3, horizon=HORIZON), series


@pytest.mark.parametrize("kind", range(8))
def test_statistical_models_fit_on_the_gpu_as_on_the_cpu(kind):
    (cpu, series), (gpu, _) = [list(statistical_models())[kind] for _ in range(2)]
    cpu.fit(series)
    gpu.cuda().fit(series.cuda())
    assert all(buffer.is_cuda for buffer in gpu.buffers() if buffer.ndim > 0 and buffer.dtype.is_floating_point)
    a, b = cpu(series[None]), gpu(series[None].cuda())
    a, b = (x if isinstance(x, torch.Tensor) else x.stddev for x in (a, b))
    assert b.is_cuda
    torch.testing.assert_close(b.cpu(), a, rtol=1e-2, atol=1e-3)


def test_the_order_search_chooses_the_same_on_the_gpu():
    series = torch.randn(120, 1, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64).cumsum(0)
    on_cpu, on_gpu = (search(part, horizon=HORIZON, p=1, q=1) for part in (series, series.cuda()))
    assert on_cpu.orders() == on_gpu.orders()
    torch.testing.assert_close(on_gpu(series[None].cuda()).cpu(), on_cpu(series[None]), rtol=1e-2, atol=1e-3)


def networks():
    shape = {"channels": 1, "horizon": HORIZON}
    yield CNN(**shape, past=PAST, hidden=8, edge="periodic columns")
    yield UNet(**shape, past=PAST, hidden=4)
    yield CNN3d(**shape, past=PAST, hidden=4)
    yield Recurrent(**shape, hidden=8, attention=True)
    yield Recursive(**shape, hidden=8, cell="gru", decay=0)
    yield Seasonal(Recurrent(channels=2, horizon=HORIZON // 2, hidden=8), horizon=HORIZON, season=2, fold=True)
    yield TCN(**shape, hidden=8, blocks=2)
    yield STCNN(**shape, size=(9, 7), hidden=4, code=8)
    yield ConvLSTM(**shape, hidden=4, peepholes=True)
    yield ConvLSTM(**shape, hidden=4, cell="gru", layers=2, edge="periodic")


@pytest.mark.parametrize("kind", range(10))
def test_networks_forecast_and_learn_on_the_gpu_as_on_the_cpu(kind):
    draws = torch.Generator().manual_seed(0)
    cpu = list(networks())[kind]
    with torch.no_grad():
        for weight in cpu.parameters():  # heads that start at 0 would hide the rest
            weight.copy_(0.2 * torch.randn(weight.shape, generator=draws))
    gpu = copy.deepcopy(cpu).cuda()
    past = torch.randn(3, PAST, 1, 9, 7, generator=draws)
    past[past > 1.5] = torch.nan
    with torch.backends.cudnn.flags(allow_tf32=False):
        a, b = cpu(past), gpu(past.cuda())
        assert b.is_cuda
        torch.testing.assert_close(b.cpu(), a, rtol=1e-3, atol=1e-4)
        for forecast in (a, b):
            forecast.square().mean().backward()
    for mine, theirs in zip(gpu.parameters(), cpu.parameters(), strict=True):
        torch.testing.assert_close(mine.grad.cpu(), theirs.grad, rtol=1e-2, atol=1e-4)


def test_motion_is_found_on_the_gpu_as_on_the_cpu():
    past = torch.as_tensor(FIELD.values[:PAST][None])
    model = LagrangianPersistence(horizon=HORIZON, edge="periodic")
    torch.testing.assert_close(model(past.cuda()).cpu(), model(past), rtol=1e-3, atol=1e-3)


def test_training_in_bfloat16_ends_near_the_cpu(tmp_path):
    errors = {}
    for device in ("cpu", "cuda"):
        p = parts(device)
        scaler = Scaler().fit(p.train)
        torch.manual_seed(0)
        model = DLinear(past=PAST, horizon=HORIZON, kernel=3)
        history = fit(
            model,
            scaler.windows(p.train),
            scaler.windows(p.validation),
            epochs=20,
            learning_rate=0.02,
            checkpoint=tmp_path / f"{device}.safetensors",
        )
        assert next(model.parameters()).device.type == device and len(history) == 20
        errors[device] = score(backtest(Scaled(model, scaler), p.test)).values
    np.testing.assert_allclose(errors["cuda"], errors["cpu"], rtol=0.02)


def test_a_run_resumes_on_the_gpu_to_the_same_weights(tmp_path):
    def train(model, checkpoint):
        p = parts("cuda")
        return fit(model, p.train, p.validation, epochs=6, checkpoint=checkpoint)

    class Stopped(DLinear):
        calls = 0

        def forward(self, past):
            self.calls += 1
            if self.calls == 20:
                raise KeyboardInterrupt
            return super().forward(past)

    def fresh(kind):
        torch.manual_seed(0)
        return kind(past=PAST, horizon=HORIZON, kernel=3)

    with pytest.raises(KeyboardInterrupt):
        train(fresh(Stopped), tmp_path / "a.safetensors")
    resumed, unbroken = fresh(DLinear), fresh(DLinear)
    train(resumed, tmp_path / "a.safetensors")
    train(unbroken, None)
    for a, b in zip(resumed.parameters(), unbroken.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
