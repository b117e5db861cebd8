# a3b serve in a container, from the wheel: no compiler inside, no root, models and sessions in the volume /models.
#   make wheel && docker build -t a3b .
#   python3 -c "import secrets; print(secrets.token_hex(24))" > keys.txt
#   docker run -p 8080:8080 -v a3b:/models -v "$PWD/keys.txt:/run/secrets/a3b_keys:ro" a3b
# A server that other machines reach needs keys, so it does not start without the file. docs/install.md has more.
FROM python:3.13-slim

# One wheel of dist, for 3.12 and later; .dockerignore leaves out everything else.
RUN --mount=type=bind,source=dist,target=/dist \
    pip install --no-cache-dir --only-binary=:all: /dist/a3b-*-cp312-abi3-manylinux_2_28_x86_64.whl \
    && useradd --uid 10001 --user-group --no-create-home --home-dir /models --shell /usr/sbin/nologin a3b \
    && install -d -o a3b -g a3b -m 0750 /models

USER 10001
WORKDIR /models
ENV A3B_HOME=/models \
    A3B_HOST=0.0.0.0 \
    A3B_PORT=8080 \
    PYTHONUNBUFFERED=1
VOLUME /models
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import os, urllib.request as u; u.urlopen('http://127.0.0.1:' + os.environ['A3B_PORT'] + '/health', timeout=4)"]
ENTRYPOINT ["a3b"]
CMD ["serve", "--api-key-file", "/run/secrets/a3b_keys"]
