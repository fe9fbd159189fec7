"""Costs name the device that counts, and sum the work of several sources."""

from prefloop.core.costs import CostMeter, Usage


def usage(device):
    return Usage(tokens_in=1, tokens_out=0, parameters=2, device=device)


def test_a_server_does_not_hide_a_gpu():
    """A reward model on a GPU gives the feedback, and a judge on a server evaluates."""
    meter = CostMeter("compare_samples")
    for device in ("cuda:0", "server", None):
        meter.add_usage(usage(device))
    assert meter.device == "cuda:0"
    assert (meter.tokens_in, meter.flops) == (3, 12)


def test_device_is_that_of_the_source():
    meter = CostMeter("reward")
    meter.add_usage(usage("server"))
    assert meter.device == "server"
