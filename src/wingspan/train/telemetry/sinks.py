"""Where else the figures of a run go than into its folder: a page for Prometheus, event files for TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from wingspan.errors import InputError

Values = Mapping[tuple[str, ...], float]  # by name and labels, such as ("seconds", "compute")

METRICS: dict[str, tuple[str, tuple[str, ...]]] = {
    "step": ("Steps done", ()),
    "steps": ("Steps of the whole run", ()),
    "loss": ("Mean loss of the last step, nats per token", ()),
    "gradient_norm": ("Norm of the last gradient, before clipping", ()),
    "learning_rate": ("Learning rate of the last step", ()),
    "tokens_per_s": ("Tokens predicted a second, mean of the last steps", ()),
    "mfu": ("Model FLOPs over the peak of the machines", ()),
    "goodput": ("Share of the time since the first start that went into steps that count", ()),
    "seconds": ("Seconds since the first start", ("kind",)),
    "tokens": ("Tokens trained on and lost", ("kind",)),
    "kwh": ("Energy, kWh", ()),
    "usd": ("Cost, US dollars", ()),
    "bits_per_byte": ("Held-out text, bits per byte", ("source", "language")),
}
PREFIX = "wingspan_train_"


class MetricsPage:
    """The latest figures as a page on the loopback that Prometheus reads.

    Raises InputError when the port is taken.
    """

    def __init__(self, port: int) -> None:
        from prometheus_client import CollectorRegistry, Gauge, start_http_server

        registry = CollectorRegistry()
        self._gauges = {
            name: Gauge(PREFIX + name, said, labels, registry=registry) for name, (said, labels) in METRICS.items()
        }
        try:
            self._server, self._thread = start_http_server(port, addr="127.0.0.1", registry=registry)
        except OSError as error:
            raise InputError(
                f"port {port} cannot be opened: {error}", where="telemetry.metrics_port", remedy="Set another, or 0"
            ) from error

    def write(self, step: int, values: Values) -> None:
        """Show these figures from now on."""
        for (name, *labels), value in values.items():
            gauge = self._gauges[name]
            (gauge.labels(*labels) if labels else gauge).set(value)

    def close(self) -> None:
        """Close the page."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class EventFiles:
    """The curves in TensorBoard's form; raises InputError where TensorBoard is not installed."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise InputError(
                "TensorBoard is not installed",
                where="telemetry.tensorboard",
                remedy="pip install 'wingspan[telemetry]'",
            ) from error
        self._writer = SummaryWriter(str(folder))

    def write(self, step: int, values: Values) -> None:
        """Add a point to each curve."""
        for name, value in values.items():
            self._writer.add_scalar("/".join(name), value, step)

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
