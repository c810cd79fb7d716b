"""What surrounds the process: a launcher, Java, object stores, glibc."""

import os
import pathlib
import platform
import shutil
import subprocess
from collections.abc import Iterator

from coca_jax.distributed import launchers
from coca_jax.doctor.finding import Finding, off, ok, problem
from coca_jax.errors import UserError

JAVA_SECONDS = 10.0
HUGE_PAGES = "glibc.malloc.hugetlb=1"
AWS = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE")


def launcher() -> Iterator[Finding]:
    """Whether this process is one of several."""
    try:
        text = launchers.describe(os.environ)
    except UserError as error:
        reason, _, fix = str(error).partition("; ")
        yield problem("processes", reason, fix)
        return
    yield ok("processes", text or "this process is alone")


def java() -> Iterator[Finding]:
    """Whether METEOR can be computed."""
    program = shutil.which("java")
    if program is None:
        fix = "install a JRE, such as apt-get install default-jre-headless"
        yield off("java", "missing: METEOR is left out of the scores of captions", fix)
        return
    try:
        done = subprocess.run(
            [program, "-version"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=JAVA_SECONDS,
        )
        reason = f"ends with {done.returncode}" if done.returncode else ""
    except subprocess.TimeoutExpired:
        reason = f"does not answer within {JAVA_SECONDS:g} seconds"
    except OSError as error:
        reason = error.strerror or type(error).__name__
    if reason:
        yield problem("java", f"{program}: {reason}", "install another JRE, or remove this one")
    else:
        version = (done.stderr or done.stdout).splitlines()[:1]
        yield ok("java", f"{''.join(version)}, for METEOR")


def stores() -> Iterator[Finding]:
    """Whether there are credentials of object stores; none of them is shown."""
    named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS", "")
    own = pathlib.Path("~/.config/gcloud/application_default_credentials.json").expanduser()
    if named and not pathlib.Path(named).is_file():
        fix = "set GOOGLE_APPLICATION_CREDENTIALS to a file that exists, or unset it"
        yield problem("gs://", f"the file of credentials {named} does not exist", fix)
    elif named or own.is_file():
        yield ok("gs://", f"credentials in {named or own}")
    else:
        yield off(
            "gs://",
            "no credentials in files; on Google's machines their own service account counts",
            "gcloud auth application-default login",
        )
    variables = [name for name in AWS if os.environ.get(name)]
    file = pathlib.Path(os.environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"))
    if variables or file.expanduser().is_file():
        yield ok("s3://", f"credentials in {', '.join(variables) or file}")
    else:
        yield off("s3://", "no credentials; on AWS the machine's own role counts", "aws configure")


def huge_pages() -> Iterator[Finding]:
    """Whether glibc asks for huge pages, which helps training on a CPU."""
    if platform.libc_ver()[0] != "glibc":
        return
    if HUGE_PAGES in os.environ.get("GLIBC_TUNABLES", ""):
        yield ok("huge pages", f"GLIBC_TUNABLES={os.environ['GLIBC_TUNABLES']}")
    else:
        yield off(
            "huge pages",
            "not asked for; training on a CPU takes 5 to 10% longer",
            f"export GLIBC_TUNABLES={HUGE_PAGES}",
        )
