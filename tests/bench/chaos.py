"""make chaos: whole moves there and back under load, with processes killed, servers crashed and links cut at random points of every step.

After each step what the clients remember is compared with the side in service, and at the end with both. The dice are seeded: SEED (1) and COURSES
(5) of the environment; the points in time are chance all the same, since the machine's speed has its say.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import pgservers
import psycopg
from ansible_collections.cutover.hetzner.plugins.module_utils.transfer.errors import TransferError

from . import faults, harness, load
from .relay import Relay
from .world import World, stage

T = TypeVar("T")
RERUNS = 15
# What may be hit: always, and while a step runs in a process of its own.
ALWAYS = ("receiver", "applier", "source crash", "target crash", "links cut", "links gone")
STEP = ("mover", "mover", "session", *ALWAYS)
PATIENCE = 120.0


class Course:
    """One move, there and back, with blows on the way."""

    def __init__(self, world: World, relays: tuple[Relay, Relay], dice: random.Random) -> None:
        self.world, self.relays, self.dice = world, relays, dice
        self.blows: Counter[str] = Counter()
        self.reruns = 0

    def run(self, megabytes: float = 3.0, rate: float = 200.0) -> load.Verdict:
        """The whole of it; what the clients know in the end, compared with the source. Raises DifferenceError for anything that is lost or doubled."""
        world = self.world
        world.make(megabytes)
        world.begin()
        with load.Load(world.clients(8, rate, self.dice.randrange(1 << 30)), reader=world.readers()) as clients:
            self._step("copy", ["mover", self.dice.choice(STEP)])
            self._patiently(lambda: world.schema("post_data"))
            self._stream("forward", 2)
            self._patiently(world.prove)
            self._patiently(world.publish_back)
            self._step("switch", [self.dice.choice(STEP)])
            clients.switch()
            self._stream("reverse", 2)
            self._step("back", [self.dice.choice(STEP)])
            clients.switch(0)
            self._stream("forward", 1)
            memories, _reading = clients.stop(PATIENCE)
        return world.whole(memories)

    def _step(self, what: str, blows: Sequence[str]) -> None:
        """Run a step in a process of its own until it ends well. The blows fall on its first runs, one each."""
        for number in range(RERUNS):
            process = self._started(what)
            try:
                if number < len(blows):
                    time.sleep(self.dice.uniform(0.1, 1.5))
                    self._strike(blows[number], process)
                output, errors = process.communicate(timeout=PATIENCE)
            finally:
                process.kill()
                process.wait(30)
            # One that was killed may have said a part of it.
            said = json.loads(output) if output and process.returncode == 0 else {}
            if process.returncode == 0 and "error" not in said:
                # A run that was over before its blow is followed by one that has nothing left to do.
                if number >= len(blows):
                    return
                continue
            assert process.returncode in (0, -9), errors[-3000:]
            self.reruns += 1
            if said:
                harness.note(f"{what} has given up: {said['error'][:300]}")
            time.sleep(0.5)
        raise AssertionError(f"{what} was not done after {RERUNS} runs")

    def _started(self, what: str) -> subprocess.Popen[str]:
        world = self.world
        given = {
            "what": what,
            "source": world.args[0],
            "target": world.args[1],
            "slot": world.services["forward"].config.slot,
            "poolers": world.pooler_args,
            "options": world.switch_args,
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.step"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(str(path) for path in (faults.TESTS, faults.TESTS.parent / ".collections"))},
        )
        assert process.stdin is not None
        process.stdin.write(json.dumps(given))
        process.stdin.close()
        process.stdin = None
        return process

    def _stream(self, direction: str, count: int) -> None:
        """Let a stream run under blows, then see it catch up."""
        for _unused in range(count):
            time.sleep(self.dice.uniform(0.2, 1.0))
            self._strike(self.dice.choice((*ALWAYS, "machine")), None, direction)
        self._patiently(lambda: self.world.caught_up(direction))

    def _strike(self, what: str, process: subprocess.Popen[str] | None, direction: str | None = None) -> None:
        world = self.world
        servers = [server for server in world.servers if isinstance(server, pgservers.Server)]
        self.blows[what] += 1
        harness.note(f"blow: {what}")
        if what == "mover" and process is not None:
            process.kill()
        elif what == "session":
            faults.end_session(self.dice.choice(servers), world.dbname, self.dice)
        elif what in ("receiver", "applier"):
            faults.kill_one([pid for one in world.services.values() for pid in [one.pid(what)] if pid], self.dice)
        elif what == "machine":
            running = [one for one in world.services.values() if one.running]
            for one in running:
                one.stop(kill=True)
            time.sleep(self.dice.uniform(0.0, 1.0))
            for one in running:
                one.start()
        elif what.endswith("crash"):
            faults.crash(servers[what.startswith("target")], world.dbname, self.dice)
        else:
            relay = self.dice.choice(self.relays)
            (relay.cut if what == "links cut" else relay.vanish)()
            time.sleep(self.dice.uniform(0.0, 0.7))
            relay.resume()

    def _patiently(self, action: Callable[[], T]) -> T:
        """What a person would do after a blow: try again."""
        for attempt in range(RERUNS):
            try:
                return action()
            except (TransferError, psycopg.Error) as error:
                harness.note(f"again after: {error}")
                if attempt == RERUNS - 1:
                    raise
            time.sleep(0.5)
        raise AssertionError("unreachable")


@contextmanager
def course(source: pgservers.Server, target: pgservers.Server, front: pgservers.Bouncer, dbname: str, seed: int) -> Iterator[Course]:
    """A move of its own, whose mover goes through relays."""
    with ExitStack() as stack:
        relays = stack.enter_context(Relay(source.port)), stack.enter_context(Relay(target.port))
        folder = Path(tempfile.mkdtemp(prefix="cutover-chaos-", dir=harness.workplace()))
        world = World(source, target, front, dbname, folder, (relays[0].port, relays[1].port))
        stack.callback(world.end)
        yield Course(world, relays, random.Random(seed))


def main() -> None:
    """Run courses and say what was hit."""
    courses, seed = harness.number("COURSES", 5), harness.number("SEED", 1)
    blows: Counter[str] = Counter()
    acknowledged = reruns = 0
    with stage() as stand:
        for number in range(courses):
            harness.note(f"course {number + 1} of {courses}, seed {seed + number}")
            with course(*stand.parts, f"chaos_{number}", seed + number) as one:
                acknowledged += one.run().acknowledged
                blows += one.blows
                reruns += one.reruns
    print(json.dumps({"courses": courses, "acknowledged": acknowledged, "lost": 0, "doubled": 0, "reruns": reruns, "blows": dict(blows)}))


if __name__ == "__main__":
    main()
