"""Computing times of a stream: what is counted, and what a user is told."""

import dataclasses
import time

import pytest

import tasnet_np
from tasnet_np.commands.main import main
from tasnet_np.listening.stream_timing import MOST_HOPS, Timing, time_streaming
from tasnet_np.network.config import PRESETS
from tasnet_np.network.execution import ConvTasNet
from tasnet_np.network.gradcheck import reduced

RATE = 8000
MODEL = ConvTasNet(reduced(PRESETS["small"]))


def test_timing_counts():
    timing = Timing(RATE, hop_seconds=0.001)
    for seconds in [1e-3] * 980 + [3e-3] * 19 + [20e-3]:
        timing.add(seconds, 80)  # 10 hops in 10 ms
    assert timing.quantile(0.5) == pytest.approx(1e-4, rel=0.03)
    assert timing.quantile(0.99) == pytest.approx(3e-4, rel=0.03)
    assert (timing.longest, timing.missed, timing.blocks) == (pytest.approx(2e-3), 1, 1000)
    assert timing.report() == (
        "10.0 s of sound in 1.1 s (real-time factor 0.106); per hop of 1 ms: "
        f"median {1e6 * timing.quantile(0.5):.0f} us, p99 {1e6 * timing.quantile(0.99):.0f} us, "
        "longest 2000 us; 1 of 1000 blocks took too long"
    )
    assert Timing(RATE, 0.001).report() == "no sound came in"


def test_info_tells_the_computing_time(capsys, tmp_path):
    tasnet_np.save(MODEL, tmp_path / "model.npz")
    assert main(["info", "--model", str(tmp_path / "model.npz")]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert (
        last.startswith("computing ") and " ms per hop of 0.375 ms in a stream, measured here (99 %: " in last
    )
    assert main(["info", "--preset", "paper"]) == 0
    assert "computing" not in capsys.readouterr().out
    timing = time_streaming(MODEL, seconds=0.1)
    assert (timing.blocks, timing.samples) == (267, 267 * MODEL.config.hop)


@pytest.mark.parametrize("rate, length, hops", [(768_000, 2, MOST_HOPS), (1, 8, 1), (8000, 1 << 14, 1)])
def test_any_rate_and_any_hop_take_seconds(rate, length, hops):
    config = dataclasses.replace(MODEL.config, sample_rate=rate, filter_length=length)
    began = time.perf_counter()
    timing = time_streaming(ConvTasNet(config))
    assert time.perf_counter() - began < 5
    assert timing.blocks == hops or timing.seconds > 1
    assert timing.quantile(0.5) > 0
