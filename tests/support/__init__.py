"""What the suites share: a server under test, clients, packages, and looks into the kernel."""

REGION = "us-east-1"
ACCOUNT = "000000000000"
ROLE = f"arn:aws:iam::{ACCOUNT}:role/tests"


def arn_of(name: str, qualifier: str | None = None) -> str:
    """The ARN of a function on a server with default account and region."""
    arn = f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}"
    return f"{arn}:{qualifier}" if qualifier else arn
