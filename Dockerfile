# Two images; both are made of this repository alone, and nothing in them runs as root.
#
# `portero`, the last stage and so what `docker build .` makes: the proxy, or the plugin server beside a Kong.
# Policies, secrets and keys are mounted.
#
#   docker build -t portero .
#   docker run -p 8088:8088 -v ./policies:/etc/portero/policies:ro -v ./secrets:/etc/portero/secrets:ro portero
#
# With logins, and for assertions to functions, keys as well (portero keys new ./keys), and a Redis where replicas share
# sessions and logouts:
#
#   -v ./keys:/etc/portero/keys:ro -e PORTERO_KEYS=/etc/portero/keys -e PORTERO_REDIS=redis://redis:6379/0
#
# User 10001 must be able to read all folders; what is made by root it is not: chown -R 10001 keys secrets. The admin
# listener is the container's own: for probes and Prometheus from outside set PORTERO_ADMIN=0.0.0.0:8089 and
# PORTERO_ADMIN_TOKEN (docs/settings.md). Providers must reach https://HOST/.portero/backchannel-logout from where they run.
#
# `kong`: Kong with Portero in it, which Kong starts and asks (kong/README.md). Kong's user must be able to read what is
# mounted; settings are in kong.toml, since Kong starts a plugin server with an empty environment.
#
#   docker build --target kong -t portero-kong .
#   docker run -p 8000:8000 -v ./kong.yml:/kong/kong.yml:ro -v ./policies:/etc/portero/policies:ro \
#       -v ./secrets:/etc/portero/secrets:ro -v ./kong.toml:/etc/portero/kong.toml:ro portero-kong
#
# The two apart, in two containers: deploy/compose.yaml.

# Images of Kong 3.9 have Python 3.12; those of 3.4 to 3.8 have 3.10, which is too old: run Portero beside them.
FROM kong:3.9 AS kong-python
USER root
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/*

FROM kong-python AS kong-build
RUN apt-get update && apt-get install --yes --no-install-recommends python3-venv
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY policies policies
COPY authproxy authproxy
COPY gateway_plugins gateway_plugins
ENV PIP_CONSTRAINT=/src/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -m venv /opt/portero && /opt/portero/bin/pip install --no-cache-dir .

FROM kong-python AS kong
COPY --from=kong-build /opt/portero /opt/portero
# Where kong.conf has it: Kong runs its commands without a PATH.
RUN ln -s /opt/portero/bin/portero /usr/local/bin/portero
COPY kong/kong.conf /etc/kong/kong.conf
COPY kong/kong.yml /kong/kong.yml
COPY kong/kong.toml /etc/portero/kong.toml
# What Portero logs, Kong logs at level info.
ENV KONG_ADMIN_LISTEN=off KONG_ADMIN_GUI_LISTEN=off KONG_LOG_LEVEL=info
USER kong
EXPOSE 8000 8443
# Kong alone can only refuse: the container is healthy when both live.
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s CMD kong health && /opt/portero/bin/python3 -c "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8089/livez', timeout=1)"

FROM python:3.11-slim AS build
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY policies policies
COPY authproxy authproxy
COPY gateway_plugins gateway_plugins
ENV PIP_CONSTRAINT=/src/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/portero && /opt/portero/bin/pip install --no-cache-dir .

FROM python:3.11-slim AS portero
# The folders are there for volumes: an empty one takes over who owns them.
RUN groupadd --gid 10001 portero \
    && useradd --system --uid 10001 --gid 10001 --no-create-home portero \
    && install --directory --owner=10001 --group=10001 --mode=0750 /run/portero /var/lib/portero
COPY --from=build /opt/portero /opt/portero
ENV PATH=/opt/portero/bin:$PATH PYTHONUNBUFFERED=1 \
    PORTERO_POLICIES=/etc/portero/policies PORTERO_SECRETS=/etc/portero/secrets \
    PORTERO_LISTEN=0.0.0.0:8088 PORTERO_ADMIN=127.0.0.1:8089
USER 10001
EXPOSE 8088
HEALTHCHECK --interval=10s --timeout=2s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8089/livez', timeout=1)"]
ENTRYPOINT ["portero"]
CMD ["serve"]
