"""What a demo prints when it is ready: lines to paste, and where to look. Plain text where there is no terminal."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from authproxy.demo.people import PASSWORD, PEOPLE
from authproxy.demo.run import Demo
from policies.tenancy import OUR_PAGES


def portero_command() -> str:
    """How this command is called from any other terminal: by name if the PATH leads to it, else by its whole path."""
    called, beside = Path(sys.argv[0]).absolute(), Path(sys.executable).with_name("portero")
    ours = called if called.name == "portero" and called.is_file() else beside
    if not ours.is_file():
        return f"{shlex.quote(sys.executable)} -c 'from authproxy.cli import main; main()'"
    on_path = shutil.which("portero")
    return "portero" if on_path is not None and Path(on_path).samefile(ours) else shlex.quote(str(ours))


def announce(demo: Demo, console: Console, seconds: float) -> None:
    """Print what to try with this demo, once, when it is ready."""
    portero, public, host = portero_command(), demo.public_url, demo.files.hosts["acme"]

    def ask(path: str, token: str = "", where: str = host, more: str = "") -> str:
        credential = f' -H "Authorization: Bearer $({portero} demo token {token})"' if token else ""
        return f"curl -i{more} -H 'Host: {where}'{credential} {public}{path}"

    ana = "--tenant acme --as ana"
    later, browser = " -H 'Prefer: respond-async'", " -H 'Accept: text/html' -H 'Sec-Fetch-Mode: navigate'"
    asleep = f"{portero} demo sleep survey-web --tenant acme"
    crowd = f"curl -sZ --parallel-immediate -o /dev/null -w '%{{http_code}}\\n' -H 'Host: {host}' '{public}/?[1-40]'"
    answer = """ -H 'Content-Type: application/json' -d '{"country": "es", "score": 5}'"""
    tries = (
        ("the form; it is public", ask("/")),
        ("a report, without a token: 401", ask("/reports/es")),
        ("a report, as an analyst: 200", ask("/reports/es", ana)),
        ("as a guest: 403 no-rule-allows", ask("/reports/es", "--tenant acme --as bob")),
        ("with acme's token at globex: 403 tenant-mismatch", ask("/reports/es", ana, demo.files.hosts["globex"])),
        ("as a program, a service account", ask("/reports", "--tenant acme --service-account survey-ci")),
        ("live answers; leave it running ...", ask("/live", ana, more="N")),
        ("... and answer in another terminal", ask("/answers", more=answer)),
        ("a cold start: put it to sleep ...", f"{portero} demo sleep survey-report --tenant acme"),
        ("... and ask; the request is held until it is awake", ask("/reports/es", ana)),
        ("or have it answered later: 202, and where it will be ...", ask("/reports/es", ana, more=later)),
        (
            "... and fetch it, with its ID in place of ID: 202 while it is pending, then the answer",
            ask(f"{OUR_PAGES}result/ID", ana),
        ),
        (
            "40 at once at a form that sleeps: 20 wait for it, 20 are told 429",
            f"{asleep} && {crowd} 2> /dev/null | sort | uniq -c",
        ),
        (
            "... and what a browser gets meanwhile: a page that comes back by itself",
            f"{asleep} && ({crowd} > /dev/null 2>&1 &) && sleep 0.5 && {ask('/', more=browser)}",
        ),
    )
    places = (
        ("policies", f"{demo.files.policies}  (edit a file, and see it taken up or refused)"),
        ("check", f"{portero} policy check --loopback-http {demo.files.policies}"),
        ("status", f"{demo.admin_url}/policy/status"),
        ("metrics", f"{demo.admin_url}/metrics"),
        ("audit", f"tail -f {demo.files.audit}"),
        ("keys", f"{demo.files.folder / 'keys'}  (of the service accounts, for portero token issue)"),
        ("own keys", f"{demo.files.own_keys}  (for sessions and assertions; see portero keys list)"),
    )
    console.print(Text(f"Portero stands in front of two tenants at {public} (ready in {seconds:.1f} s).", style="bold"))
    console.print("People: " + "; ".join(f"{person.sub}, {person.who}" for person in PEOPLE) + ".")
    login = f"{demo.origin('acme')}/reports/es"
    console.print(f"In a browser: {login}  (log in as ana; everybody's password is {PASSWORD})")
    console.print()
    for title, line in tries:
        console.print(Text(f"# {title}", style="dim"))
        console.print(Text(line))
    console.print()
    for name, place in places:
        console.print(Text(f"{name:9}", style="bold") + Text(place))
    console.print()
    console.print(Text(f"The whole tour by itself: {portero} demo --tour. Ctrl-C ends the demo and removes its files."))
