FROM scratch
COPY . /a
