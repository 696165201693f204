"""The greeting, behind imports and a table that take a while."""

import asyncio  # noqa: F401
import concurrent.futures  # noqa: F401
import configparser  # noqa: F401
import difflib  # noqa: F401
import fractions  # noqa: F401
import http.server  # noqa: F401
import multiprocessing  # noqa: F401
import pydoc  # noqa: F401
import sqlite3  # noqa: F401
import statistics  # noqa: F401
import tarfile  # noqa: F401
import unittest.mock  # noqa: F401
import xml.dom.minidom  # noqa: F401
import xmlrpc.client  # noqa: F401

TABLE = {number: str(number) for number in range(200_000)}
invocations = 0


def handler(event, context):
    global invocations
    invocations += 1
    return {"greeting": "Hello, %s" % event["name"], "invocations": invocations}
