"""All deployments of a server: made, changed, remembered on disk, and looked after some times a second."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ...errors import InvalidRequest, NotFound
from .caller import current
from .deployment import Attempt, Deployment, Totals
from .pending_mirrors import PendingMirrors
from .spec import DeploymentSpec, read_spec
from .store import AuditEntry, MemoryStore, SavedDeployment, Store, open_store
from .strategy import Clock

if TYPE_CHECKING:
    from ...engine.managed_model import Kind
    from ..context import RequestRecord

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.25
SAVE_SECONDS = 1.0
MOST_DEPLOYMENTS = 256
MOST_ANSWERS = 100_000
QUIRE, CONFIG = "quire", "config"


def _unknown_kind(spec: DeploymentSpec) -> Kind | None:
    return None


class DeploymentNotFound(NotFound):
    """No such deployment."""

    default_code = "deployment_not_found"


class DeploymentExists(InvalidRequest):
    """The name is taken."""

    status = 409
    default_code = "deployment_exists"


@dataclass(slots=True)
class AnsweredRequest:
    """What feedback on an answer needs to know.

    Attributes:
        deployment: Whose request it was; it may have been deleted since.
        version: The version that answered.
        key_digest: Of the API key that asked, and alone may say how good the answer was.
        has_score: Whether it did.
    """

    deployment: Deployment
    version: str
    key_digest: str | None
    has_score: bool = False


class Deployments:
    """Used from one event loop.

    Args:
        path: The file that keeps them; None for memory alone, which a restart forgets.
        clock: Seconds, monotonic.
        rng: Where chance comes from.

    Raises:
        QuireError: The file cannot be opened.

    Attributes:
        on_change: Called when a deployment was made, changed or deleted.
        mirrors: The requests to shadows that run.
        kind_of: Says what the versions of a spec are; None if that is not known (yet).

    Raises:
        QuireError: The file cannot be had.
    """

    def __init__(
        self, path: Path | None = None, *, clock: Clock = time.monotonic, rng: random.Random | None = None
    ) -> None:
        self.store: Store = MemoryStore() if path is None else open_store(path)
        self.on_change: list[Callable[[], None]] = []
        self.mirrors = PendingMirrors()
        self.kind_of: Callable[[DeploymentSpec], Kind | None] = _unknown_kind
        self._clock = clock
        self._rng = rng or random.Random()
        self._all: dict[str, Deployment] = {}
        self._origins: dict[str, str] = {}
        self._answers: OrderedDict[str, AnsweredRequest] = OrderedDict()
        self._timer: asyncio.TimerHandle | None = None
        self._next_save = 0.0
        self._restore()

    def __iter__(self) -> Iterator[Deployment]:
        return iter(list(self._all.values()))

    def __len__(self) -> int:
        return len(self._all)

    def find(self, name: str, kind: Kind | None = None) -> Deployment | None:
        """The deployment of a name, if there is one of this kind of models, or of any."""
        found = self._all.get(name)
        if found is None or kind is None:
            return found
        if found.kind is None:
            found.kind = self.kind_of(found.spec)
        # Whoever asks a classic model for a chat makes a mistake, which tells nothing of its versions.
        return found if found.kind in (None, kind) else None

    def get(self, name: str) -> Deployment:
        """The deployment of a name. Raises `DeploymentNotFound`."""
        found = self._all.get(name)
        if found is None:
            raise DeploymentNotFound(f"there is no deployment {name[:200]!r}", param="deployment")
        return found

    def configure(self, tables: Sequence[Mapping[str, Any]]) -> None:
        """Takes up `[[deployments]]` of quire.toml.

        One that stood there before goes on where it was, or, if its table has changed, begins anew; one that
        stands there no more is deleted. Those that the admin API made stay, unless the name is taken now.

        Raises:
            InvalidRequest: A table is wrong; the message names it.
        """
        specs = [read_spec(table) for table in tables]
        names = [spec.name for spec in specs]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise InvalidRequest(
                f"[[deployments]]: the name {twice[0]!r} is there twice", param="deployments"
            )
        for name in [
            name for name, origin in self._origins.items() if origin == CONFIG and name not in names
        ]:
            self.delete(name, CONFIG, "it stands in the configuration no more")
        for spec in specs:
            found = self._all.get(spec.name)
            if found is None:
                self.create(spec, CONFIG, "it stands in the configuration", origin=CONFIG)
            elif found.spec != spec or self._origins[spec.name] != CONFIG:
                self.change(spec, CONFIG, "the configuration has changed", origin=CONFIG)

    def create(self, spec: DeploymentSpec, who: str, why: str, *, origin: str = "api") -> Deployment:
        """A new deployment. Raises `DeploymentExists`."""
        if spec.name in self._all:
            raise DeploymentExists(f"there is a deployment {spec.name!r} already", param="name")
        if len(self._all) >= MOST_DEPLOYMENTS:
            raise InvalidRequest(f"a server has at most {MOST_DEPLOYMENTS} deployments", param="name")
        deployment = self._all[spec.name] = Deployment(spec, self._clock, self._rng)
        self._origins[spec.name] = origin
        if isinstance(self.store, MemoryStore):
            logger.warning("the deployment %s ends with the server: no deployments_file keeps it", spec.name)
        self._note(deployment.name, who, "created", why, {"spec": msgspec.to_builtins(spec)})
        self._changed(deployment)
        return deployment

    def change(self, spec: DeploymentSpec, who: str, why: str, *, origin: str | None = None) -> Deployment:
        """Another spec for the deployment of this name, whose rollout begins anew."""
        deployment = self.get(spec.name)
        deployment.change(spec)
        if origin is not None:
            self._origins[spec.name] = origin
        self._note(deployment.name, who, "changed", why, {"spec": msgspec.to_builtins(spec)})
        self._changed(deployment)
        return deployment

    def delete(self, name: str, who: str, why: str) -> None:
        """Forgets a deployment; requests that run end where they are. Raises `DeploymentNotFound`."""
        self.get(name)
        del self._all[name], self._origins[name]
        self.store.delete(name)
        self._note(name, who, "deleted", why, {})
        self._changed(None)

    def act(self, name: str, action: str, who: str, why: str, argument: str | None = None) -> Deployment:
        """What an operator does. Raises `DeploymentNotFound` or `InvalidRequest`."""
        deployment = self.get(name)
        deployment.act(action, why, argument)
        self._take_events(deployment, who)
        self._save([deployment])
        return deployment

    def begin(self, deployment: Deployment) -> Attempt:
        """A new request, of the caller who sends the one that is being answered."""
        if self._timer is None:
            self._schedule()
        caller = current.get()
        attempt = deployment.choose(None if caller is None else caller.sticky_key(deployment.spec))
        attempt.mirror_to = deployment.strategy.mirror()
        return attempt

    def remember(self, record: RequestRecord, attempt: Attempt) -> None:
        """This attempt has answered a request: feedback may come."""
        answer = AnsweredRequest(attempt.deployment, attempt.version.id, record.key_digest)
        self._answers[record.request_id] = answer
        self._answers.move_to_end(record.request_id)
        if len(self._answers) > MOST_ANSWERS:
            self._answers.popitem(last=False)

    def feedback(self, request_id: str, score: float, key_digest: str | None) -> AnsweredRequest:
        """A client says how good an answer was.

        Raises:
            NotFound: There was no such request of this API key, or it is long ago.
            InvalidRequest: It has a score, or the deployment takes no such score.
        """
        answer = self._answers.get(request_id)
        # Who has another key learns nothing of the request.
        if answer is None or answer.key_digest != key_digest or self.find(answer.deployment.name) is None:
            raise NotFound(
                f"no deployment answered a request {request_id[:200]!r}, or it is too long ago",
                param="request_id",
                code="request_not_found",
            )
        if answer.has_score:
            raise InvalidRequest("this request has a score already", param="request_id")
        answer.deployment.score(answer.version, score)
        answer.has_score = True
        self._take_events(answer.deployment, QUIRE)
        return answer

    async def audit(self, name: str | None, limit: int, before: int | None = None) -> list[AuditEntry]:
        """The latest decisions, the newest first."""
        return await asyncio.to_thread(self.store.audit, name, limit, before)

    def tick(self) -> None:
        """Looks after all deployments; the event loop calls it."""
        for deployment in self._all.values():
            deployment.tick()
            self._take_events(deployment, QUIRE)
        if self._clock() >= self._next_save:
            self._next_save = self._clock() + SAVE_SECONDS
            self._save([deployment for deployment in self._all.values() if deployment.is_dirty])

    def start(self) -> None:
        """Begins to tick; without it, the first request does."""
        if self._timer is None:
            self._schedule()

    def close(self) -> None:
        """Keeps everything, and ticks no more; blocks until it is written."""
        if self._timer is not None:
            self._timer.cancel()
        self.mirrors.cancel()
        self._save(list(self._all.values()))
        self.store.close()

    def _schedule(self) -> None:
        def again() -> None:
            self._timer = loop.call_later(TICK_SECONDS, again)
            self.tick()

        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(TICK_SECONDS, again)

    def _restore(self) -> None:
        for saved in self.store.load():
            try:
                deployment = Deployment(read_spec(json.loads(saved.spec)), self._clock, self._rng)
                deployment.strategy.load(saved.strategy.encode())
                totals = msgspec.json.decode(saved.totals, type=dict[str, Totals])
            except (InvalidRequest, msgspec.MsgspecError, ValueError) as error:
                # Another version of quire wrote it; the models are served without the deployment.
                logger.error("the deployment %r cannot be restored: %s", saved.name, error)
                continue
            deployment.totals |= {name: total for name, total in totals.items() if name in deployment.totals}
            self._all[saved.name], self._origins[saved.name] = deployment, saved.origin

    def _changed(self, deployment: Deployment | None) -> None:
        if deployment is not None:
            self._save([deployment])
        for listener in self.on_change:
            listener()

    def _take_events(self, deployment: Deployment, who: str) -> None:
        for event in deployment.take_events():
            logger.info("deployment %s: %s (%s): %s", deployment.name, event.what, who, event.why)
            self._note(deployment.name, who, event.what, event.why, event.details)

    def _note(self, name: str, who: str, what: str, why: str, details: dict[str, Any]) -> None:
        self.store.note(AuditEntry(time.time(), name, who, what, why, details))

    def _save(self, deployments: Sequence[Deployment]) -> None:
        saved = [
            SavedDeployment(
                name=deployment.name,
                spec=msgspec.json.encode(deployment.spec).decode(),
                origin=self._origins[deployment.name],
                strategy=deployment.strategy.save().decode(),
                totals=msgspec.json.encode(deployment.totals).decode(),
            )
            for deployment in deployments
        ]
        for deployment in deployments:
            deployment.is_dirty = False
        if saved:
            self.store.save(saved)
