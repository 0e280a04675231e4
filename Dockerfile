# Portero as a container: no shell is needed at run time, nothing runs as root; policies, secrets and keys are mounted.
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
FROM python:3.11-slim AS build
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE CHANGELOG.md ./
COPY policies policies
COPY authproxy authproxy
COPY gateway_plugins gateway_plugins
ENV PIP_CONSTRAINT=/src/constraints.txt PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /opt/portero && /opt/portero/bin/pip install --no-cache-dir .

FROM python:3.11-slim AS portero
RUN useradd --system --uid 10001 --no-create-home portero
COPY --from=build /opt/portero /opt/portero
ENV PATH=/opt/portero/bin:$PATH PYTHONUNBUFFERED=1 \
    PORTERO_POLICIES=/etc/portero/policies PORTERO_SECRETS=/etc/portero/secrets \
    PORTERO_LISTEN=0.0.0.0:8088 PORTERO_ADMIN=127.0.0.1:8089
USER 10001
EXPOSE 8088
HEALTHCHECK --interval=10s --timeout=2s CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8089/livez', timeout=1)"]
ENTRYPOINT ["portero"]
CMD ["serve"]
