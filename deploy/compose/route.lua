-- Forwards each received radiograph to the gateway. Results are not forwarded; the gateway would
-- ignore its own.
-- `false` keeps DumpJson from turning numbers into text, which Orthanc ignores without a message.

local RADIOGRAPHS = { CR = true, DX = true }

function OnStoredInstance(id, tags, metadata, origin)
  if RADIOGRAPHS[tags['Modality']] then
    local body = { Resources = { id }, Synchronous = false }
    RestApiPost('/modalities/gateway/store', DumpJson(body, false))
  end
end
