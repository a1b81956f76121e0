"""One replica, from its start to a stop that loses nothing. What comes before is in `start`."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import ssl
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import structlog
import uvloop

from windlass_server.api.access import ApiKeys, KeyFileError
from windlass_server.connections import ConnectionLimits, Connections
from windlass_server.garbage import collect_by_the_clock
from windlass_server.hosting.confinement import hide_from_others
from windlass_server.hosting.cpus import available_cpus, cpus_beside_requests, loading_cpus
from windlass_server.hosting.image_decoder import DecoderSettings, ImageDecoder
from windlass_server.hosting.json_helpers import JsonHelpers, JsonSettings
from windlass_server.hosting.launcher import Launcher, LauncherError
from windlass_server.hosting.launcher_start import StartedLauncher
from windlass_server.hosting.memory import Room
from windlass_server.hosting.processes import give_memory_back
from windlass_server.hosting.resident import Resident, ResidentSettings, VersionSpec
from windlass_server.hosting.slot import HeldResident, Order
from windlass_server.listening import Listener, StartError
from windlass_server.logs import configure_logs
from windlass_server.predictions.log import PredictionLog
from windlass_server.predictions.settings import OFF, PredictionLogError, PredictionLogSettings
from windlass_server.replica import Replica, Storage
from windlass_server.settings import Settings
from windlass_server.tls import TlsFiles

log = structlog.get_logger(__name__)

END_RESERVE_SECONDS = 5.0
"""Of the grace period, for unloading and the last writes."""
PREDICTIONS_CLOSE_SECONDS = 2.0
"""Of those; what isn't in the database then is on disk, and stored after the next start."""


OTHER_FILES = 256
"""Open files besides clients' connections: workers, logs, the database."""
MAX_PREDICTIONS_FILE_BYTES = 16 * 1024


def run(settings: Settings, started: StartedLauncher | None = None) -> None:
    """Runs a replica until SIGTERM or SIGINT; leaves with code 1 when it can't start. `started`: the launcher, if it is
    there already."""
    configure_logs(settings.log_format, settings.log_level)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings, started))
    except StartError as error:
        sys.stderr.write(f"windlass-server: {error}\n")
        sys.exit(1)


async def serve(settings: Settings, started: StartedLauncher | None = None) -> None:
    """Serves until SIGTERM or SIGINT. Raises `StartError`."""
    stop = _stop_on_signals()
    _check_models(settings.models)
    _check_certificates(settings.operator_ca_file)
    clients = Listener(settings.host, settings.port, "clients", "--port")
    numbers = Listener(settings.metrics_host or settings.host, settings.metrics_port, "metrics", "--metrics-port")
    _hide()
    give_memory_back()
    # Before any secret is read: workers descend from it.
    launcher = Launcher(started=started)
    try:
        await launcher.start()
    except LauncherError as error:
        raise StartError(f"the launcher of workers can't be started: {error}") from error
    keys = _read_keys(settings.api_key_file)
    storage = await asyncio.to_thread(_open_storage, settings)
    images = ImageDecoder(
        launcher,
        DecoderSettings(
            max_pixels=settings.max_image_pixels,
            max_image_bytes=settings.max_body_bytes,
            deadline=settings.image_deadline,
        ),
    )
    json = JsonHelpers(
        launcher,
        JsonSettings(limits=settings.limits, deadline=settings.request_deadline, at_work=settings.max_received_bytes),
    )
    connections = Connections(_connection_limits(settings))
    room = Room(settings.memory_reserve)
    replica = Replica(
        settings,
        storage,
        _resident_maker(settings, launcher, room),
        connections,
        images,
        json,
        keys,
        confinement=lambda: launcher.confinement,
        room=room,
    )
    log.info("starting", server=settings.server_name, replica=settings.replica, instance=replica.instance)
    running = asyncio.create_task(replica.run())
    stopping = asyncio.create_task(stop.wait())
    tidying = asyncio.create_task(collect_by_the_clock())
    try:
        await clients.open(
            replica.app,
            tls=_tls_files(settings),
            connections=connections,
            gate=replica.health.ready_once if settings.refuse_until_ready else None,
        )
        await numbers.open(replica.metrics)
        log.info("listening", url=clients.url, metrics_url=numbers.url)
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if running.done():
            await running  # it only ends by a fault of ours, which is to be seen
        await _drain(settings, replica, clients)
    finally:
        stopping.cancel()
        running.cancel()
        tidying.cancel()
        await asyncio.wait({running, stopping, tidying})
        await replica.close()
        await numbers.close(END_RESERVE_SECONDS)
        await images.close()
        await json.close()
        await launcher.close()
        if storage.predictions is not None:
            await asyncio.to_thread(storage.predictions.close, PREDICTIONS_CLOSE_SECONDS)
    log.info("stopped")


async def _drain(settings: Settings, replica: Replica, clients: Listener) -> None:
    """Unready first, then everyone gets the time to notice, then what was admitted is finished."""
    clock = asyncio.get_running_loop().time
    deadline = clock() + settings.stop_grace_period - END_RESERVE_SECONDS
    was_ready = replica.health.ready()[0]
    replica.drain()
    # Nobody sends to a replica that isn't ready: there is nothing to wait for then.
    delay = settings.drain_delay if was_ready else 0.0
    log.info("stopping", accepting_seconds=delay)
    await asyncio.sleep(delay)
    await clients.close(max(deadline - clock(), 1.0))
    log.info("all requests are answered")


def _stop_on_signals() -> asyncio.Event:
    """Set by the first SIGTERM or SIGINT. The second ends the process at once, and its workers with it."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if stop.is_set():
            log.warning("stopping at once", signal=signal.Signals(number).name)
            os._exit(128 + number)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    return stop


def _hide() -> None:
    """Others of this user, workers above all, are not to look into this process."""
    try:
        hide_from_others()
    except OSError as error:
        log.warning("other processes of this user can look into this one", reason=str(error))


def _check_models(folder: Path) -> None:
    if not folder.is_dir():
        raise StartError(
            f"there is no folder of models {folder.absolute()}: make it, or name another by --models (WINDLASS_MODELS)"
        )
    if not os.access(folder, os.R_OK | os.X_OK):
        raise StartError(
            f"the folder of models {folder.absolute()} can't be read: give this user (uid {os.getuid()}) "
            "the right to read it"
        )


def _check_certificates(path: Path | None) -> None:
    if path is not None:
        try:
            ssl.create_default_context(cafile=path)
        except OSError as error:
            raise StartError(f"--operator-ca-file {path} can't be used: {error.strerror or error}") from error


def _tls_files(settings: Settings) -> TlsFiles | None:
    certificate, key = settings.tls_certificate_file, settings.tls_key_file
    return TlsFiles(certificate, key) if certificate is not None and key is not None else None


def _connection_limits(settings: Settings) -> ConnectionLimits:
    return ConnectionLimits(
        connections=_raise_open_files(settings.max_connections),
        keep_alive=settings.keep_alive,
        head_timeout=settings.head_timeout,
        body_timeout=settings.body_timeout,
        min_body_rate=settings.min_body_rate,
        max_body_bytes=settings.max_body_bytes,
        send_timeout=settings.send_timeout,
    )


def _raise_open_files(connections: int) -> int:
    """Raises the bound of open files to what so many connections need; gives how many there may be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Twice: those that are refused are open for a moment, too.
    wanted = 2 * connections + OTHER_FILES
    if hard != resource.RLIM_INFINITY and hard < wanted:
        connections = max(1, (hard - OTHER_FILES) // 2)
        log.warning(
            "fewer connections than set: this process may not open more files", connections=connections, files=hard
        )
        wanted = hard
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return connections


def _read_keys(path: Path | None) -> ApiKeys | None:
    try:
        return ApiKeys(path) if path is not None else None
    except KeyFileError as error:
        raise StartError(f"{error} (--api-key-file, WINDLASS_API_KEY_FILE)") from error


def _open_storage(settings: Settings) -> Storage:
    """State folder and prediction log. Raises `StartError` for what a person has to correct; where nothing can be
    written the replica goes on without, and says so."""
    url = settings.predictions
    if settings.predictions_file is not None:
        url = _read_predictions_file(settings.predictions_file)
    bounds = PredictionLogSettings(
        sample=settings.predictions_sample,
        max_bytes=settings.predictions_max_bytes,
        max_age_seconds=settings.predictions_max_days * 86_400,
    )
    try:
        folder = settings.state_folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (FileExistsError, NotADirectoryError):
        raise StartError(
            f"{settings.state_folder} is no folder: name one by --state-dir (WINDLASS_STATE_DIR)"
        ) from None
    except (OSError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        problem = (
            f"the state folder can't be written ({reason}): there is no copy of the plan to start on and predictions "
            "are not recorded; name a writable one by --state-dir"
        )
        log.warning("no state folder", reason=problem)
        return Storage(None, PredictionLog.open(OFF, Path()), (problem,))
    try:
        return Storage(folder, PredictionLog.open(url, folder, bounds))
    except PredictionLogError as error:
        raise StartError(str(error)) from error


def _read_predictions_file(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(MAX_PREDICTIONS_FILE_BYTES).decode().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise StartError(f"--predictions-file {path} can't be read: {error}") from error


def resident_settings(settings: Settings, room: Room) -> ResidentSettings:
    """What each version is given."""
    return ResidentSettings(
        load_deadline=settings.load_deadline,
        threads=settings.threads or available_cpus(),
        preparing_cpus=settings.loading_cpus or loading_cpus(),
        preparing_cpus_beside_requests=settings.loading_cpus or cpus_beside_requests(),
        max_batch_size=settings.max_batch_size,
        slice_rows=settings.slice_rows,
        freeze_bytes=settings.freeze_bytes,
        room=room,
        allow_operations=frozenset(settings.allow_operation),
        require_confinement=settings.require_confinement,
    )


def _resident_maker(
    settings: Settings, launcher: Launcher, room: Room
) -> Callable[[Order, Callable[[], None]], HeldResident]:
    bounds = resident_settings(settings, room)

    def make(order: Order, on_change: Callable[[], None]) -> HeldResident:
        key = order.key
        spec = VersionSpec(key.model, key.version, key.digest, order.path, order.samples, order.min_score)
        return Resident(spec, launcher, bounds, lambda _resident: on_change())

    return make
