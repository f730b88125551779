"""The Python client of Browserbase, unmodified, and as strict as it can be: each answer must have all that its types
say. Run by tests/e2e/python.test.mjs, which gives it the server's address in the client's own variables."""

import asyncio
import io
import time
import zipfile

import browserbase
from browserbase import AsyncBrowserbase, Browserbase

STATUSES = ("PENDING", "RUNNING")


def fails(kind, run):
    try:
        run()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was expected")


def sessions(bb):
    created = bb.sessions.create(
        project_id="of another service",
        api_timeout=300.0,
        keep_alive=True,
        region="us-east-1",
        user_metadata={"client": "python"},
        browser_settings={"viewport": {"width": 1920.0, "height": 1080.0}, "block_ads": True},
    )
    assert created.status in STATUSES and created.connect_url.startswith("ws://"), created.status
    assert created.user_metadata == {"client": "python"}
    assert (created.expires_at - created.created_at).total_seconds() == 300
    assert created.started_at is not None and created.ended_at is None
    found = bb.sessions.retrieve(created.id)
    assert found.id == created.id and found.connect_url
    assert [one.id for one in bb.sessions.list(q="user_metadata['client']:'python'")] == [created.id]
    debug = bb.sessions.debug(created.id, expires_in=60)
    assert debug.debugger_fullscreen_url.startswith("http://") and debug.ws_url.startswith("ws://"), debug
    (page,) = debug.pages
    assert page.url == "about:blank" and page.debugger_url and page.debugger_fullscreen_url and page.favicon_url == ""
    interactive = bb.sessions.debug(created.id, extra_query={"interactive": "true"})
    assert "/devtools/" in interactive.pages[0].debugger_url, interactive
    uploaded = bb.sessions.uploads.create(created.id, file=("data.txt", b"from python"))
    assert "/tmp/.uploads/data.txt" in uploaded.message, uploaded
    with zipfile.ZipFile(io.BytesIO(bb.sessions.downloads.list(created.id).read())) as downloads:
        assert downloads.namelist() == []
    assert bb.sessions.logs.list(created.id) == []
    for _ in range(2):
        released = bb.sessions.update(created.id, status="REQUEST_RELEASE", project_id=created.project_id)
        assert released.status == "COMPLETED" and released.ended_at is not None
    assert bb.sessions.retrieve(created.id).connect_url is None
    assert bb.sessions.list(status="COMPLETED")[0].id == created.id
    assert bb.sessions.create().keep_alive is False
    external = {"type": "external", "server": "http://127.0.0.1:1", "username": "name", "password": "a secret"}
    proxied = bb.sessions.create(proxies=[external])
    assert proxied.proxy_bytes == 0 and "secret" not in proxied.to_json(), proxied


def extensions(bb):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as files:
        files.writestr("manifest.json", '{"manifest_version": 3, "name": "Of my own", "version": "1"}')
    made = bb.extensions.create(file=("of-my-own.zip", archive.getvalue()))
    assert made.file_name == "of-my-own.zip" and made.created_at == made.updated_at, made
    assert bb.extensions.retrieve(made.id) == made
    session = bb.sessions.create(extension_id=made.id, keep_alive=True)
    assert session.project_id == made.project_id
    bb.sessions.update(session.id, status="REQUEST_RELEASE")
    bb.extensions.delete(made.id)
    fails(browserbase.NotFoundError, lambda: bb.extensions.retrieve(made.id))
    error = fails(browserbase.BadRequestError, lambda: bb.sessions.create(extension_id=made.id))
    assert error.body["message"].startswith("extensionId: "), error
    error = fails(browserbase.BadRequestError, lambda: bb.extensions.create(file=b"no zip"))
    assert error.body["message"].startswith("file: "), error


def contexts(bb):
    made = bb.contexts.create(project_id="of another service", name="the shop")
    assert made.cipher_algorithm == "AES-256-CBC" and made.public_key and made.upload_url
    assert bb.contexts.retrieve(made.id).id == made.id
    assert bb.contexts.update(made.id).id == made.id
    session = bb.sessions.create(browser_settings={"context": {"id": made.id, "persist": True}}, keep_alive=True)
    assert session.context_id == made.id
    bb.sessions.update(session.id, status="REQUEST_RELEASE")
    bb.contexts.delete(made.id)
    fails(browserbase.NotFoundError, lambda: bb.contexts.retrieve(made.id))
    error = fails(browserbase.BadRequestError, lambda: bb.sessions.create(browser_settings={"context": {"id": made.id}}))
    assert error.body["message"].startswith("browserSettings.context.id: "), error


def projects(bb):
    (project,) = bb.projects.list()
    assert bb.projects.retrieve(project.id).name == project.name
    assert bb.projects.usage(project.id).proxy_bytes == 0


def refusals(bb):
    error = fails(browserbase.BadRequestError, lambda: bb.sessions.create(api_timeout=5))
    assert error.body["message"].startswith("timeout: "), error
    fails(browserbase.NotFoundError, lambda: bb.sessions.retrieve("nothing"))
    fails(browserbase.AuthenticationError, lambda: bb.with_options(api_key="no key").sessions.list())
    started = time.monotonic()
    error = fails(browserbase.InternalServerError, lambda: bb.sessions.replays.retrieve("any"))
    assert (error.status_code, error.body["code"]) == (501, "not_available"), error
    assert time.monotonic() - started < 0.45, "it was repeated"


async def asynchronous():
    async with AsyncBrowserbase(_strict_response_validation=True) as bb:
        created = await asyncio.gather(*(bb.sessions.create(keep_alive=True) for _ in range(5)))
        assert len({session.id for session in created}) == 5
        for session in created:
            await bb.sessions.update(session.id, status="REQUEST_RELEASE")


with Browserbase(_strict_response_validation=True) as client:
    sessions(client)
    extensions(client)
    contexts(client)
    projects(client)
    refusals(client)
asyncio.run(asynchronous())
print("all of it held")
