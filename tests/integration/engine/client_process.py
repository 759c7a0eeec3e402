"""A process that uses an engine as an API worker does, and reports results on standard output.

`python client_process.py SOCKET`: answers without an end; a line for the first chunk of each, for its last,
and for each error.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[3]))

from backend.domain.errors import Unavailable
from backend.engine.client import EngineClient
from inference.protocol import Generate, Sampling

RETRY_SECONDS = 0.1


async def main(socket_path: Path) -> None:
    client = EngineClient(socket_path)
    sampling = Sampling(max_tokens=450, temperature=0.0, ignore_eos=True)
    for number in itertools.count():
        request = Generate(str(number), prompt="once", sampling=sampling)
        try:
            async for chunk in client.generate(request):
                if chunk.completion_tokens == 1:
                    say("began")
            say("answered")
        except Unavailable as error:
            say(error.code)
            await asyncio.sleep(RETRY_SECONDS)


def say(word: str) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
