"""Licenses of the installed packages, and known vulnerabilities of their versions.

make audit

Licenses come from the packages' own metadata and are not legal advice. Vulnerabilities are looked up with pip-audit
where that is installed (it is not part of the environment) and its database can be reached; otherwise the report says
that they were not checked. Packages that the database does not know are counted: pip-audit itself calls them free of
known vulnerabilities. The exit code is 1 if there is a known vulnerability.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import defaultdict
from importlib.metadata import Distribution, distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
FAMILIES = {
    "proprietary": r"proprietary|nvidia",
    "weak copyleft": r"LGPL|Lesser General|\bMPL|Mozilla|\bEPL|Eclipse|CDDL",
    "copyleft": r"\bA?GPL|General Public|Affero",
    "permissive": r"\bMIT\b|BSD|Apache|\bISC|PSF|Python Software|Unlicense|CC0|Zlib|HPND|Public Domain|Zope|ZPL",
}
"""Families of licenses, and the words in a license's name that tell them; the first that matches is taken."""


def license_of(package: Distribution) -> str:
    """The license that a package names: the SPDX expression, else the classifiers, else the first line of the text."""
    fields = package.metadata
    if "License-Expression" in fields:
        return fields["License-Expression"].strip()
    classifiers = [text.rpartition(" :: ")[2] for text in fields.get_all("Classifier") or [] if "License ::" in text]
    named = [text for text in classifiers if text != "OSI Approved"]
    if named:
        return ", ".join(named)
    lines = (fields["License"] or "").strip().splitlines() if "License" in fields else []
    return lines[0][:80] if lines else "not stated"


def family_of(license_: str) -> str:
    for family, words in FAMILIES.items():
        if re.search(words, license_, re.IGNORECASE):
            return family
    return "not recognized"


def licenses() -> str:
    """The table of families, and every package that is not permissive by name."""
    packages = {package.name: (package.version, license_of(package)) for package in distributions()}
    by_family: dict[str, list[str]] = defaultdict(list)
    for name in sorted(packages, key=str.lower):
        by_family[family_of(packages[name][1])].append(name)
    lines = ["| licenses | packages |", "|---|---:|"]
    lines += [f"| {family} | {len(by_family[family])} |" for family in [*FAMILIES, "not recognized"]]
    for family in ("proprietary", "weak copyleft", "copyleft", "not recognized"):
        if by_family[family]:
            lines += ["", f"{family}:"]
            lines += [f"  {name} {packages[name][0]}: {packages[name][1]}" for name in by_family[family]]
    return "\n".join(lines)


def vulnerabilities() -> tuple[str, int]:
    """What pip-audit says of the lock, and its exit code."""
    program = shutil.which("pip-audit")
    if program is None:
        return "Known vulnerabilities: NOT CHECKED: pip-audit is not installed (pipx install pip-audit).", 0
    command = [program, "--requirement", str(LOCK), "--no-deps", "--disable-pip", "--progress-spinner", "off"]
    try:
        done = subprocess.run([*command, "--format", "json"], capture_output=True, text=True, check=False, timeout=300)
        packages = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        return "Known vulnerabilities: NOT CHECKED: the database did not answer within 300 s.", 0
    except (ValueError, KeyError):
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return f"Known vulnerabilities: NOT CHECKED: pip-audit failed: {reason}", 0
    checked = [package for package in packages if "skip_reason" not in package]
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    if not checked:
        return f"Known vulnerabilities: NOT CHECKED: the database answered for none of {len(packages)} packages.", 0
    lines = [
        f"  {package['name']} {package['version']}: {each['id']}, fixed in {', '.join(each['fix_versions']) or 'none'}"
        for package in checked
        for each in package["vulns"]
    ]
    text = f"Known vulnerabilities of {LOCK.name}: {len(lines)} in {len(checked)} packages"
    if unknown:
        text += f"; NOT CHECKED, because the database did not answer for them: {', '.join(unknown)}"
    return "\n".join([text, *lines]), int(bool(lines))


def main() -> None:
    print(licenses())
    text, code = vulnerabilities()
    print(f"\n{text}")
    sys.exit(code)


if __name__ == "__main__":
    main()
