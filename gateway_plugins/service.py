"""
What Kong may ask on one plugin's socket: to start an instance, to handle an event, to go on with it; and how it stands.

Every question has an answer, whatever stands in it. Errors are for what is not a request of a client: Kong logs an
error's text and goes on as if the plugin were not there, or, of ``StartInstance``, answers 500. It refuses to know
bytes on the wire and what handlers do.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, Final

from authproxy.audit import get_logger
from gateway_plugins.events import Counts, Events
from gateway_plugins.front import Front
from gateway_plugins.instances import Instances, NoInstance
from gateway_plugins.plugins import PluginModule
from gateway_plugins.protocol import KongConnection, error_reply, result_reply

PHASE: Final = "access"
"""The one phase that plugins of Portero run in."""
_STEPS: Final = ("", "Consumer", "Credential", "MemoryStats", "MultiMap", "Route", "Service")
"""Kong names a step by the type of what it brings; all are taken alike."""


class RpcError(Exception):
    """A message that makes no sense; its text is Portero's own and goes to Kong's log."""


class PluginService:
    """What is asked on one plugin's socket."""

    def __init__(
        self, module: PluginModule, front: Front, events: Events, instances: Instances, counts: Counts
    ) -> None:
        self._module = module
        self._front = front
        self._events = events
        self._counts = counts
        self._instances = instances
        self._log = get_logger("kong")
        self._methods: dict[bytes, Callable[[Any, int, KongConnection], bytes | None]] = {
            b"plugin.HandleEvent": self._handle_event,
            b"plugin.StartInstance": self._start_instance,
            b"plugin.CloseInstance": self._close_instance,
            b"plugin.InstanceStatus": self._instance_status,
            b"plugin.GetStatus": self._get_status,
            b"plugin.GetPluginInfo": self._get_plugin_info,
            b"plugin.StepError": self._step_error,
        } | {f"plugin.Step{kind}".encode(): self._step for kind in _STEPS}

    def call(self, method: bytes, argument: Any, message_id: int, connection: KongConnection) -> bytes | None:
        """Never raises, whatever is asked."""
        asked = self._methods.get(method)
        try:
            if asked is None:
                raise RpcError("there is no such method")  # noqa: TRY301 (one way to say no)
            return asked(argument, message_id, connection)
        except (RpcError, NoInstance) as error:
            return error_reply(message_id, str(error))
        except Exception as error:  # noqa: BLE001 (a mistake of ours must not leave Kong without an answer)
            self._log.error("rpc-failed", plugin=self._module.name, exc_info=error)
            return error_reply(message_id, "internal error")

    def _handle_event(self, argument: Any, message_id: int, connection: KongConnection) -> bytes | None:
        try:
            phase, instance_id = argument[b"EventName"], argument[b"InstanceId"]
        except (TypeError, KeyError, IndexError):
            raise RpcError("HandleEvent takes InstanceId and EventName") from None
        instance = self._instances.get(instance_id)
        if phase != b"access":
            raise RpcError(f"the plugin runs in the phase {PHASE} only")
        return self._events.begin(instance, self._counts, self._front, message_id, connection)

    def _step(self, argument: Any, message_id: int, connection: KongConnection) -> bytes | None:
        try:
            event_id, value = argument[b"EventId"], argument.get(b"Data")
        except (TypeError, KeyError, IndexError, AttributeError):
            raise RpcError("Step takes EventId and Data") from None
        return self._events.step(self._counts, event_id, value, message_id, connection)

    def _step_error(self, argument: Any, message_id: int, _connection: KongConnection) -> bytes:
        """Kong 3 never says so; whoever does gets a refusal, because no handler is written for it."""
        event_id = argument.get(b"EventId") if isinstance(argument, dict) else None
        return self._events.fail(self._counts, event_id, message_id)

    def _start_instance(self, argument: Any, message_id: int, _connection: KongConnection) -> bytes:
        try:
            name, config = argument[b"Name"], argument[b"Config"]
        except (TypeError, KeyError, IndexError):
            raise RpcError("StartInstance takes Name and Config") from None
        if name != self._module.name.encode() or type(config) is not bytes:
            raise RpcError(f"this is the socket of {self._module.name}")
        instance = None
        try:
            instance = self._instances.start(config, self._events.busy)
            reply = result_reply(message_id, instance.status(self._module.name))
        except Exception as error:  # noqa: BLE001 (whatever a plugin cannot be made of)
            if instance is not None:
                self._instances.close(instance.id)
            self._log.error("instance-refused", plugin=self._module.name, exc_info=error)
            raise RpcError(f"{self._module.name} does not take this configuration; its log says why") from None
        self._log.info("instance-started", plugin=self._module.name, id=instance.id, kept=len(self._instances))
        return reply

    def _close_instance(self, argument: Any, message_id: int, _connection: KongConnection) -> bytes:
        instance = self._instances.close(argument)
        return result_reply(message_id, {"Name": self._module.name, "Id": instance.id, "Config": instance.config})

    def _instance_status(self, argument: Any, message_id: int, _connection: KongConnection) -> bytes:
        return result_reply(message_id, self._instances.get(argument).status(self._module.name))

    def _get_status(self, _argument: Any, message_id: int, _connection: KongConnection) -> bytes:
        name = self._module.name
        instances = [instance.status(name) for instance in self._instances.all()]
        return result_reply(message_id, {"Pid": os.getpid(), "Plugins": {name: {"Name": name, "Instances": instances}}})

    def _get_plugin_info(self, argument: Any, message_id: int, _connection: KongConnection) -> bytes:
        module = self._module
        if argument != module.name.encode():
            raise RpcError(f"this is the socket of {module.name}")
        fields = [{"config": {"type": "record", "fields": list(module.Schema)}}]
        return result_reply(
            message_id,
            {
                "Name": module.name,
                "Phases": [PHASE],
                "Priority": module.priority,
                "Version": module.version,
                "Schema": {"name": module.name, "fields": fields},
            },
        )
