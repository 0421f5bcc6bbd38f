"""The run of a table of clients: options, one line for each client and step, the count."""

import argparse
import collections
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile

from servers import PATIENCE
from world import CLIENTS, Failed, Skip, program

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent


def version_of(w, path, words):
    if not words:
        return ""
    said = w.run([path, *words], timeout=PATIENCE).text
    found = re.search(r"\d+(\.\d+)+\w*", said)
    return found[0] if found else ""


def arguments(doc):
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=pathlib.Path, help="folder of netpolicy and netproxy-dp (default: build them, in the folder of debug builds)")
    parser.add_argument("--only", default="", help="names of clients with commas between; no others are tried")
    parser.add_argument("--require", default="", help="names of clients with commas between; that one of these is skipped is a failure")
    parser.add_argument("--registries", action="store_true", help="also use the registries of the clients' own settings")
    args = parser.parse_args()
    for option in ("only", "require"):
        setattr(args, option, [name for name in getattr(args, option).split(",") if name])
    known = [name for name, *_ in CLIENTS]
    if unknown := [name for name in args.only + args.require if name not in known]:
        parser.error(f"no such client: {', '.join(unknown)}; there are {', '.join(known)}")
    if not args.bin:
        subprocess.run(["cargo", "build", "--quiet", "--locked", "-p", "policy-compiler", "-p", "dataplane", "--bins"], cwd=ROOT, check=True)
        args.bin = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug"
    args.bin = args.bin.resolve()
    return args


def main(doc, kind):
    """Tries every client of the table in a world of that kind; ends the program."""
    args = arguments(doc)
    # Told to end, it still ends what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="clients-") as folder:
        w = kind(pathlib.Path(folder).resolve(), args)
        try:
            for name, program_name, version, function in CLIENTS:
                if args.only and name not in args.only:
                    continue
                w.client, w.version = name, "-"
                path = program(*program_name.split("|")[:1], *program_name.split("|")[1:])
                if not path:
                    w.record("", "skip", "not installed")
                    continue
                try:
                    w.version = version_of(w, path, version)
                    function(w, path)
                except Skip as reason:
                    w.record("", "skip", str(reason))
                except (Failed, OSError, subprocess.SubprocessError, ValueError) as error:
                    w.record("", "FAIL", " ".join(str(error).split())[-600:])
        finally:
            w.stop()
            wrong = w.proxy.stop()
        w.client, w.version = "netproxy-dp", ""
        what, reached = w.must_not_have_been_seen()
        w.record(what, "FAIL" if reached else "ok", str(reached or ""))
        w.record("ends when told to, and did not panic", "FAIL" if wrong else "ok", wrong or "")
    count = collections.Counter(result for _, result in w.rows)
    missing = sorted(
        {name for name in args.require if "ok" not in [result for client, result in w.rows if client == name] or (name, "skip") in w.rows}
    )
    print(
        f"\n{count['ok']} ok, {count['skip']} skipped, {count['FAIL']} failed" + (f"; required and skipped: {', '.join(missing)}" if missing else "")
    )
    sys.exit(1 if count["FAIL"] or missing else 0)
