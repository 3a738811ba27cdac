"""A register of the licences that model weights come under: what they ask for, in our own words.

It holds what was read in the texts themselves; for the rest it gives the address. It is no legal advice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Duty:
    """Something that whoever passes the weights on must do, and the section of the licence that says so."""

    id: str
    text: str
    section: str


@dataclass(frozen=True)
class Licence:
    """A licence. `id` is as model cards spell it; `spdx` its SPDX id, None for one that SPDX does not list.

    `notice` is a line that must accompany copies, word for word, in the text file `notice_file`. `policy` is
    the address of use restrictions that are a part of the terms. `size_threshold` and `revenue_threshold` say
    from where on a product needs another licence, None where the terms have no such limit. `commercial` is
    None where it depends on the text in question. `version`: date or number, None where the id is a family.
    """

    id: str
    name: str
    version: str | None
    url: str
    summary: tuple[str, ...]
    duties: tuple[Duty, ...] = ()
    notice: str | None = None
    notice_file: str = "NOTICE"
    policy: str | None = None
    spdx: str | None = None
    commercial: bool | None = True
    size_threshold: str | None = None
    revenue_threshold: str | None = None

    @property
    def has_size_threshold(self) -> bool:
        return self.size_threshold is not None

    @property
    def has_revenue_threshold(self) -> bool:
        return self.revenue_threshold is not None


GEMMA_NOTICE = (
    "Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms"
)

GEMMA = Licence(
    id="gemma",
    name="Gemma Terms of Use",
    version="2025-03-24",
    url="https://ai.google.dev/gemma/terms",
    summary=(
        "Using, changing or sharing the weights counts as agreeing, wherever they were obtained.",
        "Commercial use is allowed; there is no limit on users or revenue.",
        "Fine-tunes, adapters, merges, quantised files and models distilled from its outputs are derivatives "
        "under the same terms; its outputs are not.",
        "The prohibited uses bind you and whoever you pass the weights or a hosted service on to.",
        "Google may restrict use that it reasonably believes breaks the terms; at their end all copies and "
        "derivatives must be deleted.",
        "Google claims no rights in outputs; you answer for them. No trademark licence.",
        "This is the version that was read: the address may show a later one.",
    ),
    duties=(
        Duty(
            "use-restrictions",
            "make the use restrictions of section 3.2 an enforceable part of the agreement under which you "
            "pass it on, and tell recipients that they apply",
            "3.1 (1)",
        ),
        Duty("agreement-copy", "give every recipient a copy of the Gemma Terms of Use", "3.1 (2)"),
        Duty("modified-files", "mark files that you modified prominently as modified by you", "3.1 (3)"),
        Duty(
            "notice",
            "ship a text file named Notice with the sentence that the terms prescribe (hosted services: no)",
            "3.1 (4)",
        ),
    ),
    notice=GEMMA_NOTICE,
    notice_file="Notice",
    policy="https://ai.google.dev/gemma/prohibited_use_policy",
)


def _llama(version: str, released: str) -> Licence:
    under = version.replace(".", "_")
    return Licence(
        id=f"llama{version}",
        name=f"Llama {version} Community License Agreement",
        version=released,
        url=f"https://www.llama.com/llama{under}/license",
        summary=(
            "Use, change and redistribution are allowed, commercially too, up to very many users.",
            "What is built on it and distributed shows Built with Llama; a distributed model that it was "
            "used to create or improve has a name that begins with Llama.",
            "The acceptable use policy is a part of the terms.",
        ),
        duties=(
            Duty("agreement-copy", "give recipients a copy of the agreement", "1.b.i"),
            Duty("built-with", 'show "Built with Llama" prominently beside what you distribute', "1.b.i"),
            Duty(
                "model-name",
                'begin the name of a distributed model that was made or improved with it with "Llama"',
                "1.b.i",
            ),
            Duty("notice", "keep the attribution line in a text file named Notice in every copy", "1.b.iii"),
            Duty("use-restrictions", "keep to the acceptable use policy", "1.b.iv"),
        ),
        notice=(
            f"Llama {version} is licensed under the Llama {version} Community License, "
            "Copyright © Meta Platforms, Inc. All Rights Reserved."
        ),
        notice_file="Notice",
        policy=f"https://www.llama.com/llama{under}/use-policy",
        size_threshold=(
            "products of a licensee and its affiliates that had more than 700 million monthly active users "
            f"in the month before the release ({released}) need a licence from Meta (section 2)"
        ),
    )


_KEEP_NOTICES = Duty(
    "licence-copy", "keep the copyright notice and the licence text with every copy", "the whole text"
)
_NOTICE_STAYS = ("Nearly everything is allowed as long as the notice stays.", "No use restrictions.")


def _creative_commons(kind: str, name: str, *more: str, commercial: bool = True) -> Licence:
    duties = [
        Duty("attribution", "name the author, keep notices, give the licence or its address", "3(a)(1)"),
        Duty("modified-files", "say that you changed it", "3(a)(1)(B)"),
    ]
    summary = ["Sharing and changing are allowed with attribution.", *more]
    if "sa" in kind.split("-"):
        duties.append(Duty("share-alike", "put adaptations under the same licence", "3(b)"))
    return Licence(
        id=f"cc-{kind}-4.0",
        name=f"Creative Commons {name} 4.0 International",
        version="4.0",
        url=f"https://creativecommons.org/licenses/{kind}/4.0/legalcode",
        summary=tuple(summary),
        duties=tuple(duties),
        spdx=f"CC-{kind.upper()}-4.0",
        commercial=commercial,
    )


_APACHE = Licence(
    id="apache-2.0",
    name="Apache License 2.0",
    version="2.0",
    url="https://www.apache.org/licenses/LICENSE-2.0",
    summary=(
        "Use, change and redistribution are allowed, commercially too; patents of contributors are licensed.",
        "No use restrictions; no limit on users or revenue.",
    ),
    duties=(
        Duty("licence-copy", "give recipients a copy of the licence", "4(a)"),
        Duty("modified-files", "mark files that you changed prominently as changed", "4(b)"),
        Duty("attribution", "keep copyright, patent, trademark and attribution notices", "4(c)"),
        Duty("notice-kept", "pass on the NOTICE file, where the work has one", "4(d)"),
    ),
    spdx="Apache-2.0",
)

_ALL = (
    GEMMA,
    _llama("3.1", "2024-07-23"),
    _llama("3.2", "2024-09-25"),
    _llama("3.3", "2024-12-06"),
    _APACHE,
    Licence(
        id="mit",
        name="MIT License",
        version=None,
        url="https://opensource.org/license/mit",
        summary=_NOTICE_STAYS,
        duties=(_KEEP_NOTICES,),
        spdx="MIT",
    ),
    Licence(
        id="bsd-2-clause",
        name="BSD 2-Clause License",
        version=None,
        url="https://opensource.org/license/bsd-2-clause",
        summary=_NOTICE_STAYS,
        duties=(_KEEP_NOTICES,),
        spdx="BSD-2-Clause",
    ),
    Licence(
        id="bsd-3-clause",
        name="BSD 3-Clause License",
        version=None,
        url="https://opensource.org/license/bsd-3-clause",
        summary=_NOTICE_STAYS,
        duties=(
            _KEEP_NOTICES,
            Duty("no-endorsement", "do not advertise with the authors' names without permission", "clause 3"),
        ),
        spdx="BSD-3-Clause",
    ),
    _creative_commons("by", "Attribution"),
    _creative_commons("by-sa", "Attribution-ShareAlike", "Adaptations stay under the same licence."),
    _creative_commons(
        "by-nc", "Attribution-NonCommercial", "Commercial purposes are excluded.", commercial=False
    ),
    Licence(
        id="cc0-1.0",
        name="Creative Commons Zero 1.0 Universal",
        version="1.0",
        url="https://creativecommons.org/publicdomain/zero/1.0/legalcode",
        summary=("The rights are waived as far as the law allows.",),
        spdx="CC0-1.0",
    ),
    Licence(
        id="openrail",
        name="Responsible AI Licence (OpenRAIL family)",
        version=None,
        url="https://www.licenses.ai",
        summary=(
            "A family of licences, each with a list of use restrictions of its own: read the one that comes "
            "with the model.",
        ),
        duties=(
            Duty("use-restrictions", "pass the use restrictions on to whoever gets a copy", "read the text"),
            Duty("agreement-copy", "give recipients a copy of the licence", "read the text"),
        ),
        commercial=None,
    ),
    Licence(
        id="qwen-research",
        name="Qwen Research License Agreement",
        version="2024-09-19",
        url="https://huggingface.co/Qwen/Qwen2.5-3B/blob/main/LICENSE",
        summary=(
            "For research and evaluation only; a commercial use needs a licence from its publisher.",
            "A distributed model that was made or improved with it shows Built with Qwen or Improved using "
            "Qwen.",
        ),
        duties=(
            Duty("agreement-copy", "give recipients a copy of the agreement", "read the text"),
            Duty("built-with", 'show "Built with Qwen" or "Improved using Qwen"', "read the text"),
        ),
        commercial=False,
    ),
    Licence(
        id="lfm1.0",
        name="LFM Open License v1.0",
        version="1.0",
        url="https://www.liquid.ai/lfm-license",
        summary=("Commercial use depends on the revenue of whoever uses it; read the rest in the text.",),
        commercial=None,
        revenue_threshold=(
            "commercial use is licensed only below an annual revenue of 10 million US dollars "
            "(sections 1 and 5)"
        ),
    ),
)

LICENCES: Mapping[str, Licence] = {licence.id: licence for licence in _ALL}
"""Every licence that is known, by the id that model cards use."""

_OTHER_NAMES = {
    "gemma-terms-of-use": "gemma",
    "gemma-3": "gemma",
    "gemma-license": "gemma",
    "apache2": "apache-2.0",
    "apache-2": "apache-2.0",
    "apache2.0": "apache-2.0",
    "apache-license-2.0": "apache-2.0",
    "apache": "apache-2.0",
    "mit-license": "mit",
    "bsd-3": "bsd-3-clause",
    "bsd-2": "bsd-2-clause",
    "cc0": "cc0-1.0",
    "creativeml-openrail-m": "openrail",
    "bigscience-openrail-m": "openrail",
    "bigcode-openrail-m": "openrail",
    "openrail++": "openrail",
    **{
        f"{name}{gap}{version}{end}": f"llama{version}"
        for version in ("3.1", "3.2", "3.3")
        for name, gap in (("llama", ""), ("llama", "-"), ("meta-llama", "-"))
        for end in ("", "-community", "-community-license", "-community-license-agreement")
    },
    "qwen-research-license": "qwen-research",
    "qwen-research-license-agreement": "qwen-research",
    "lfm-1.0": "lfm1.0",
    "lfm-open-license-v1.0": "lfm1.0",
}


def find_licence(text: str) -> Licence | None:
    """The licence that a card, a GGUF file's `general.license` or a person means; None for an unknown one."""
    key = re.sub(r"[\s_]+", "-", text.strip().lower())
    return LICENCES.get(_OTHER_NAMES.get(key, key))
