"""What the hub shows of a repository: activity and how its maintainers respond. Each is a weak signal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from statistics import median
from typing import Any

from gemlet.errors import GemletError, MissingExtraError, ModelNotFoundError

MOST_THREADS = 30
"""Of the newest discussions, pull requests apart, are read."""


@dataclass(frozen=True)
class Thread:
    """A discussion: who began it and when, and when the first maintainer replied, None for never."""

    began: datetime
    by_maintainer: bool
    first_reply: datetime | None


def ask_hub(repository: str) -> dict[str, Any]:
    """Facts about a repository, each with a remark on what it is worth.

    Raises MissingExtraError without huggingface_hub, ModelNotFoundError for a repository that is not there or
    not open to everyone, GemletError where the hub cannot be reached.
    """
    try:
        from huggingface_hub import HfApi
        from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError
    except ImportError:
        raise MissingExtraError("asking the hub", "hub") from None
    api = HfApi()
    try:
        info = api.model_info(repository, timeout=20)
        listed = (found for found in api.get_repo_discussions(repository) if not found.is_pull_request)
        discussions = list(islice(listed, MOST_THREADS))
        threads = [
            _thread(api.get_discussion_details(repository, item.num), repository) for item in discussions
        ]
    except RepositoryNotFoundError as error:
        raise ModelNotFoundError(f"{repository}: the hub has no such repository for everyone") from error
    except (HfHubHTTPError, OSError, ValueError, RuntimeError) as error:
        hint = "HF_HUB_OFFLINE forbids the network; without --online nothing is asked"
        raise GemletError(f"{repository}: the hub did not answer ({str(error)[:200]})", hint=hint) from error
    opened = sum(item.status == "open" for item in discussions)
    signals = [
        ("revision", info.sha, "what main points to today"),
        ("last change", _day(info.last_modified), "an old model may be finished, a new one untested"),
        ("downloads", info.downloads, "of about 30 days, machines among them"),
        ("likes", info.likes, "popularity, not quality"),
        ("open discussions", f"{opened} of {len(discussions)} newest", "spam and questions among them"),
        *response(threads),
    ]
    return {
        "repository": repository,
        "signals": [{"name": name, "value": value, "remark": remark} for name, value, remark in signals],
    }


def response(threads: Iterable[Thread]) -> list[tuple[str, Any, str]]:
    """How maintainers respond to what others began: date of the last thread, share answered, median time."""
    threads = list(threads)
    asked = [thread for thread in threads if not thread.by_maintainer]
    answered = [
        (thread.first_reply - thread.began).total_seconds()
        for thread in asked
        if thread.first_reply is not None
    ]
    last = max((thread.began for thread in threads), default=None)
    share = f"{len(answered)} of {len(asked)}" if asked else "none asked"
    return [
        ("last thread", _day(last), "when somebody last wrote a new one"),
        ("maintainers replied to", share, "some need no reply"),
        ("median time to reply", _duration(median(answered)) if answered else "none", "of those replied to"),
    ]


def _thread(details: Any, repository: str) -> Thread:
    owner = repository.split("/")[0]
    comments = [event for event in details.events if event.type == "comment"]
    replies = [event.created_at for event in comments[1:] if _is_maintainer(event, owner)]
    return Thread(
        began=details.created_at,
        by_maintainer=bool(comments) and _is_maintainer(comments[0], owner),
        first_reply=min(replies, default=None),
    )


def _is_maintainer(event: Any, owner: str) -> bool:
    """The owner, or someone whom the hub marks as belonging to the owning organisation."""
    author = (getattr(event, "_event", None) or {}).get("author") or {}
    marked = isinstance(author, dict) and any(author.get(key) is True for key in ("isOwner", "isOrgMember"))
    return marked or event.author == owner


def _day(moment: datetime | None) -> str | None:
    return None if moment is None else moment.date().isoformat()


def _duration(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.1f} days"
