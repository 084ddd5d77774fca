"""The original article's client, call by call: a key and a CSR by OpenSSL, a plain POST, and AWS's SDK of its time.

It knows nothing of this project. Between runs it keeps key and CSR, and makes a new Thing.
"""

import json
import os
import subprocess
import time

import requests
from AWSIoTPythonSDK.MQTTLib import AWSIoTMQTTClient

API = "https://API"
ENDPOINT, PORT = "ENDPOINT", 8883
ROOT_CA = "AmazonRootCA1.pem"

KEY, CSR, CERTIFICATE = "private.key", "device.csr", "device.pem"
SUBJECT = "/C=JP/ST=Tokyo/L=Meguro/O=Amazon Web Services Japan K.K./CN=AWS IoT Certificate"

thing_name = f"certtest{time.time_ns()}"

if not os.path.exists(KEY):
    subprocess.run(["openssl", "genrsa", "-out", KEY, "2048"], check=True)
    subprocess.run(["openssl", "req", "-new", "-subj", SUBJECT, "-key", KEY, "-out", CSR], check=True)

with open(CSR) as file:
    body = {"thingName": thing_name, "csr": file.read()}
response = requests.post(API + "/getCertificate", data=json.dumps(body))
if response.status_code != 200:
    raise SystemExit(response.text)
with open(CERTIFICATE, "w") as file:
    file.write(response.text)

client = AWSIoTMQTTClient(thing_name)
client.configureEndpoint(ENDPOINT, PORT)
client.configureCredentials(ROOT_CA, KEY, CERTIFICATE)
client.configureOfflinePublishQueueing(-1)
client.configureDrainingFrequency(2)
client.configureConnectDisconnectTimeout(10)
client.configureMQTTOperationTimeout(5)
client.connect()
client.publish("certtest/" + thing_name, json.dumps({"message": "hello"}), 1)
client.disconnect()
print(thing_name)
